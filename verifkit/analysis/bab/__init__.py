"""Branch and bound: bounds of many parts of one question at once, and the search over them."""
