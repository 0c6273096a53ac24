// Filter and sort of all rows, from the page's own data; the view is in the address (#filter=bab&verdict=HOLDS&sort=-time).
"use strict";
(() => {
  const section = document.getElementById("explore");
  const data = JSON.parse(document.getElementById("row-data").textContent);
  const words = ["instance", "model", "norm", "verifier", "subject", "verdict"];
  const numbers = ["certified", "falsified", "time"];
  const keys = [...words, ...numbers];
  const STEP = 100;
  const rows = data.rows.map((row) => {
    const entry = {};
    words.forEach((key, k) => { entry[key] = data[key][row[k]]; });
    numbers.forEach((key, k) => { entry[key] = row[words.length + k]; });
    entry.text = words.map((key) => entry[key]).join("\n").toLowerCase();
    return entry;
  });
  if (!rows.length) return;
  const form = section.querySelector("form");
  const body = section.querySelector("tbody");
  const status = section.querySelector("[role=status]");
  const more = document.getElementById("more");
  const heads = [...section.querySelectorAll("th button")];
  let sort = "";
  let shown = STEP;

  const options = (select, values, all) => {
    [["", all], ...values.map((v) => [v, v])].forEach(([value, label]) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = label;
      select.append(option);
    });
  };
  const verdicts = [...data.verdict].sort();
  const reasons = verdicts.filter((v) => !["HOLDS", "VIOLATED", "misclassified"].includes(v));
  options(form.verdict, verdicts.concat(reasons.length ? ["UNKNOWN"] : []), "all");
  options(form.verifier, [...data.verifier].sort(), "all");

  const value = (x) => (x === "inf" ? Infinity : x);
  const compare = (key, down) => (a, b) => {
    const x = value(a[key]);
    const y = value(b[key]);
    if (x === y) return 0;
    if (x === null) return 1; // what is absent comes last either way
    if (y === null) return -1;
    return (x < y ? -1 : 1) * (down ? -1 : 1);
  };
  const matches = (row) => {
    const wanted = form.verdict.value;
    const verdict = wanted === "UNKNOWN" ? reasons.includes(row.verdict) : !wanted || row.verdict === wanted;
    const verifier = !form.verifier.value || row.verifier === form.verifier.value;
    return verdict && verifier && row.text.includes(form.filter.value.trim().toLowerCase());
  };
  const cell = (row, key) => {
    const x = row[key];
    const td = document.createElement("td");
    if (words.includes(key)) td.className = "l";
    if (key === "verdict") td.classList.add({ HOLDS: "h", VIOLATED: "v", misclassified: "v" }[x] || "u");
    td.textContent = x === null ? "–" : x === "inf" ? "∞" : x;
    return td;
  };
  const draw = () => {
    const found = rows.filter(matches);
    const key = sort.replace("-", "");
    if (key) found.sort(compare(key, sort.startsWith("-")));
    body.replaceChildren(...found.slice(0, shown).map((row) => {
      const tr = document.createElement("tr");
      tr.append(...keys.map((k) => cell(row, k)));
      return tr;
    }));
    status.textContent = `${found.length} of ${rows.length} rows` +
      (found.length > shown ? `, the first ${shown} shown` : "");
    more.hidden = found.length <= shown;
    heads.forEach((button) => {
      const down = sort.startsWith("-") ? "descending" : "ascending";
      button.parentNode.setAttribute("aria-sort", button.dataset.key === key ? down : "none");
    });
  };
  const read = () => {
    const view = new URLSearchParams(location.hash.slice(1));
    form.filter.value = view.get("filter") || "";
    form.verdict.value = view.get("verdict") || "";
    form.verifier.value = view.get("verifier") || "";
    sort = keys.includes((view.get("sort") || "").replace("-", "")) ? view.get("sort") : "";
    shown = STEP;
    draw();
  };
  const write = () => {
    const view = new URLSearchParams();
    ["filter", "verdict", "verifier"].forEach((name) => { if (form[name].value) view.set(name, form[name].value); });
    if (sort) view.set("sort", sort);
    try {
      history.replaceState(null, "", view.toString() ? `#${view}` : "#instances");
    } catch (error) { /* a page inside another may not change its address */ }
    shown = STEP;
    draw();
  };
  const viewed = () => location.hash.includes("=");

  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { sort = ""; write(); }));
  heads.forEach((button) => button.addEventListener("click", () => {
    sort = sort === button.dataset.key ? `-${sort}` : button.dataset.key;
    write();
  }));
  more.addEventListener("click", () => { shown += 10 * STEP; draw(); });
  addEventListener("hashchange", () => { if (viewed()) read(); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  section.hidden = false;
  read();
  if (viewed()) document.getElementById("instances").scrollIntoView();
})();
