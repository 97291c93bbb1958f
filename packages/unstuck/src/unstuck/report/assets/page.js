"use strict";
// Selects layers, in every figure at once, and sorts and filters the table. The page is complete without it.
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const make = (tag, text = "", name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
  const data = JSON.parse($("data").textContent);
  const _ = (text, values = {}) => (data.words?.[text] ?? text).replace(/\{(\w+)\}/g, (_all, name) => values[name]);

  // --- the layers, by their position ---
  const [names, kinds, shapes, texts, rules] = [0, 1, 2, 3, 4].map((i) => data.rows.map((row) => row[i]));
  const cells = Object.fromEntries(data.columns.map(([key], i) => [key, texts.map((text) => text.split(" ")[i])]));
  const heads = Object.fromEntries(data.columns);
  const count = names.length;
  const marked = rules.some(Boolean);

  // --- the table ---
  const body = $("table").tBodies[0];
  const state = { key: "number", down: false, page: 0, order: [], chosen: null };
  const words = { nan: Infinity, inf: Number.MAX_VALUE, [_("none")]: -1 };
  const sortable = (row) => {
    const { key } = state;
    if (key === "number") return row;
    if (key === "name") return names[row].toLowerCase();
    if (key === "kind") return kinds[row].toLowerCase();
    if (key === "found") return rules[row];
    const text = cells[key][row];
    return text === "" ? "" : words[text] ?? Number(text);
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = ([a, i], [b, j]) => {
    if (a === "" || b === "") return (a === "") - (b === "") || i - j; // what has no value comes last, either way
    const order = typeof a === "string" ? collator.compare(a, b) : (a > b) - (a < b);
    return (state.down ? -order : order) || i - j;
  };
  const arrange = () => {
    const wanted = $("search").value.trim().toLowerCase();
    const kind = $("kind").value;
    const rows = names.map((_, row) => row).filter(
      (row) =>
        (!wanted || `${names[row]} ${kinds[row]} ${rules[row]}`.toLowerCase().includes(wanted)) &&
        (!kind || kinds[row] === kind) &&
        (!$("found").checked || rules[row]),
    );
    state.order = rows.map((row) => [sortable(row), row]).sort(compare).map(([, row]) => row);
    const [many, every] = [state.order.length, names.length].map((n) => n.toLocaleString("en"));
    $("count").textContent = many === every ? _("{count} layers", { count: every }) : _("{count} of {all} layers", { count: many, all: every });
  };
  const drawn = (row) => {
    const line = make("tr");
    line.id = `layer-${row + 1}`;
    line.append(make("td", (row + 1).toString()));
    const name = make("th");
    name.scope = "row";
    name.title = names[row];
    const button = make("button", names[row]);
    button.type = "button";
    button.addEventListener("click", () => select(row));
    name.append(button);
    line.append(name, make("td", kinds[row]));
    for (const [key] of data.columns) line.append(make("td", cells[key][row]));
    if (marked) line.append(make("td", rules[row], "found"));
    line.classList.toggle("selected", row === state.chosen);
    return line;
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(state.order.length / data.page));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const first = state.page * data.page;
    body.replaceChildren(...state.order.slice(first, first + data.page).map(drawn));
    $("pages").hidden = pages === 1;
    $("page").textContent = _("{number} of {all}", { number: state.page + 1, all: pages });
    $("before").disabled = state.page === 0;
    $("after").disabled = state.page === pages - 1;
  };
  const restart = () => {
    state.page = 0;
    arrange();
    draw();
  };
  const reveal = (place) => {
    if (!state.order.includes(place)) {
      $("search").value = "";
      $("kind").value = "";
      $("found").checked = false;
      arrange();
    }
    state.page = Math.floor(state.order.indexOf(place) / data.page);
    draw();
  };

  for (const head of all("#table thead th")) {
    const button = make("button", head.textContent);
    button.type = "button";
    button.title = head.title;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const { key } = head.dataset;
      state.down = state.key === key ? !state.down : false;
      state.key = key;
      for (const other of all("#table thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      restart();
    });
  }
  for (const kind of [...new Set(kinds)].sort(collator.compare)) $("kind").append(new Option(kind, kind));
  $("search").addEventListener("input", restart);
  $("kind").addEventListener("change", restart);
  $("found").addEventListener("change", restart);
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("found").closest("label").hidden = !marked;
  for (const [id, by] of [["before", -1], ["after", 1]]) {
    $(id).addEventListener("click", () => {
      state.page += by;
      draw();
    });
  }

  // --- the figures ---
  const numbers = (row, keys) => {
    const list = make("dl");
    for (const key of keys) {
      const text = cells[key]?.[row];
      if (!text) continue;
      const pair = make("div");
      pair.append(make("dt", heads[key].replace(" %", "")), make("dd", heads[key].endsWith("%") ? `${text} %` : text));
      list.append(pair);
    }
    return list;
  };
  const figures = all("[data-depth]").map((chart) => {
    const plot = chart.querySelector(".plot");
    const [hover, chosen] = ["at", "at chosen"].map((name) => make("div", "", name));
    hover.hidden = chosen.hidden = true;
    plot.append(hover, chosen);
    return { chart, plot, hover, chosen };
  });
  const mark = (which, place) => {
    for (const figure of figures) {
      figure[which].hidden = place === null;
      if (place === null) continue;
      figure[which].style.left = `${(100 * place) / count}%`;
      figure[which].style.width = `${100 / count}%`;
    }
  };
  const told = (place) => `${_("layer {number} of {all}", { number: place + 1, all: count })}: ${names[place]}, ${kinds[place]}`;

  function select(place) {
    state.chosen = place;
    mark("chosen", place);
    for (const link of all("a.layer")) link.classList.toggle("selected", Number(link.dataset.layer) === place);
    $("card").hidden = place === null;
    if (place === null) {
      draw();
      history.replaceState(null, "", location.pathname + location.search);
      return;
    }
    for (const { plot, chart } of figures) {
      plot.setAttribute("aria-valuenow", place + 1);
      const said = [...numbers(place, chart.dataset.shows.split(" ")).children].map((pair) => `, ${pair.firstChild.textContent} ${pair.lastChild.textContent}`).join("");
      plot.setAttribute("aria-valuetext", told(place) + said);
    }
    $("card-place").textContent = `#${place + 1}`;
    $("card-name").textContent = names[place];
    $("card-kind").textContent = [kinds[place], shapes[place]].filter(Boolean).join(" \u00b7 ");
    $("card-numbers").replaceChildren(...numbers(place, Object.keys(heads)).children);
    $("card-previous").disabled = place === 0;
    $("card-next").disabled = place === count - 1;
    reveal(place);
    history.replaceState(null, "", `#layer-${place + 1}`);
  }
  const step = (by) => select(Math.min(Math.max((state.chosen ?? (by > 0 ? -1 : count)) + by, 0), count - 1));

  const placeAt = (plot, event) => {
    const { left, width } = plot.getBoundingClientRect();
    return Math.min(Math.max(Math.floor(((event.clientX - left) / width) * count), 0), count - 1);
  };
  for (const { chart, plot } of figures) {
    // A slider is what assistive technology has for "choose one of many along a line"; the summary stays its label.
    for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-valuemin": 1, "aria-valuemax": count, "aria-valuenow": 1, "aria-valuetext": _("no layer selected") })) plot.setAttribute(name, value);
    plot.addEventListener("pointermove", (event) => {
      const place = placeAt(plot, event);
      const tip = $("tip");
      mark("hover", place);
      tip.replaceChildren(make("span", `#${place + 1} `), make("bdi", names[place], "name"), numbers(place, chart.dataset.shows.split(" ")));
      tip.hidden = false;
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
      tip.style.top = `${Math.max(4, event.clientY - height - 14)}px`;
    });
    plot.addEventListener("pointerleave", () => {
      mark("hover", null);
      $("tip").hidden = true;
    });
    plot.addEventListener("click", (event) => select(placeAt(plot, event)));
    plot.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(count / 20));
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -far, PageUp: far, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      if (Number.isFinite(by)) step(by);
      else select(by < 0 ? 0 : count - 1);
    });
  }

  // --- links, the card, copying, the theme ---
  const jump = (place) => {
    select(place);
    (figures[0]?.chart.closest("section") ?? $("layers")).scrollIntoView();
  };
  for (const link of all("a.layer")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      jump(Number(link.dataset.layer));
      figures[0]?.plot.focus({ preventScroll: true });
    });
  }
  $("card-previous").addEventListener("click", () => step(-1));
  $("card-next").addEventListener("click", () => step(1));
  $("card-close").addEventListener("click", () => select(null));
  $("card-row").addEventListener("click", () => {
    reveal(state.chosen);
    body.querySelector(".selected")?.scrollIntoView({ block: "center" });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.chosen !== null) select(null);
  });
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = _("Copied");
      } catch {
        getSelection().selectAllChildren(code); // not allowed here: at least it is selected
        button.textContent = _("Selected");
      }
      setTimeout(() => (button.textContent = _("Copy")), 2000);
    });
  }
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => {
    $("theme").textContent = dark() ? _("Light") : _("Dark");
    $("theme").setAttribute("aria-label", dark() ? _("Use the light theme") : _("Use the dark theme"));
  };
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);

  label();
  root.classList.add("scripted");
  $("theme").hidden = $("tools").hidden = false;
  arrange();
  draw();
  const linked = () => {
    const number = /^#layer-(\d+)$/.exec(location.hash)?.[1];
    if (number >= 1 && number <= count) jump(number - 1);
  };
  linked();
  addEventListener("hashchange", linked);
})();
