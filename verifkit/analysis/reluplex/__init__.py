"""The machinery of Reluplex (Katz et al., CAV 2017), in the order in which a reader wants it.

`system`: the network and the unsafe rows as definitions, bounds and pairs (b, f). `tableau`: the definitions solved for
basic variables, in floats or in rationals. `simplex`: the assignment and its bounds. `bounds`: the stack of bounds,
each knowing where it came from. `search`: repairs, splits, backtracking. `certificate`: Farkas multipliers, checked in
rationals. `delta`: numbers for strict rows. `trace`: every step as a line of text.
"""
