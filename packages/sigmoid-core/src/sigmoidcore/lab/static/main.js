// The page: what is known about both networks, drawn once a frame of the screen.

import {approach, drawCurves, drawProfile, drawSlopes, layerScale} from "./charts.js";
import {Controls} from "./controls.js";
import {save, show} from "./dialog.js";
import {drawLens, showSlope} from "./lens.js";
import {Link} from "./link.js";
import {HeatMap, drawAnswers, drawStrip} from "./maps.js";
import {powerText, readTheme} from "./paint.js";
import {language, t, translate} from "./texts.js";
import {Tour} from "./tour.js";

const MOST_POINTS = 3000, SPOKEN = 5000;
const at = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const lab = {
    built: null, networks: [], histories: [[], []], accidents: [], heats: [], layer: 0, neuron: null, running: false, step: 0, setting: null,
    wanted: new URLSearchParams(location.search), runAfter: false, layerAfter: null, spoken: 0, dirty: false, changed: false,
};
lab.wanted.delete("lang");
let controls, link;

// What the server says.

const heard = {
    hello(message) {
        controls = new Controls(at("controls"), message, (values) => arrange(values, false));
        if (lab.setting) controls.show(lab.setting);
    },
    building() {
        idle(true);
        at("clock").textContent = t("waiting");
    },
    built(message) {
        Object.assign(lab, {built: message, networks: [], histories: [[], []], accidents: [], setting: message.setting, step: 0});
        lab.wanted = new URLSearchParams(message.query);
        lab.heats = message.networks.map((network) => network && new HeatMap(network.layers));
        controls.show(message.setting);
        idle(false);
        history.replaceState(null, "", address().search || location.pathname);
        if (lab.runAfter) link.ask("start");
        look(lab.layerAfter ?? lab.layer);
        lab.runAfter = false;
        if (lab.layer === lab.layerAfter) lab.layerAfter = null; // else this is an earlier set-up, which is not as deep
    },
    frame(message) {
        if (message.id !== lab.built?.id) return;
        const moved = message.step !== lab.step || !lab.networks.length;
        Object.assign(lab, {networks: message.networks, step: message.step});
        running(message.running);
        message.networks.forEach((network, which) => {
            if (!network || !moved) return;
            const points = lab.histories[which];
            points.push({step: message.step, loss: network.loss, score: network.score});
            if (points.length > MOST_POINTS) lab.histories[which] = points.filter((_, i) => i % 2 === 0);
            lab.heats[which].add(network.sizes);
        });
        at("clock").textContent = t("clock", {step: message.step.toLocaleString("en")});
        describe();
        draw();
    },
    error({text}) {
        say(text);
    },
    report({html, network}) {
        save(`diagnosis-${"AB"[network]}.html`, html, "text/html");
    },
    code({text, network}) {
        const choices = ["A", "B"].map((name, which) => [t("kind", {name}), () => link.ask("code", {network: which}), which === network]);
        show(t("code"), t("codeHint"), text, {choices, file: `training_${"ab"[network]}.py`});
    },
};

function say(text) {
    at("status").textContent = text;
    at("status").hidden = false;
}

const most = () => Math.max(1, ...(lab.built?.networks ?? []).map((network) => network?.layers ?? 1));

// What the visitor does.

function arrange(values, run, layer = null) {
    const query = {};
    for (const [name, value] of Object.entries({...lab.setting, ...values})) query[name] = String(value);
    lab.wanted = new URLSearchParams(query);
    at("status").hidden = true;
    Object.assign(lab, {runAfter: run, layerAfter: layer});
    link.ask("arrange", {setting: query});
}

function look(layer, neuron = null) {
    lab.layer = Math.max(0, Math.min(most() - 1, layer));
    lab.neuron = neuron;
    link.ask("look", {layer: lab.layer, neuron});
    draw();
}

function running(is) {
    lab.running = is;
    at("start").textContent = t(is ? "pause" : "start");
    document.body.classList.toggle("running", is);
}

/** Whether there is nothing to start yet. */
function idle(is) {
    for (const id of ["start", "step"]) at(id).disabled = is;
}

function address() {
    const query = new URLSearchParams(lab.wanted);
    if (new URLSearchParams(location.search).has("lang")) query.set("lang", language);
    return {search: query.size ? `?${query}` : "", whole: `${location.origin}/${query.size ? `?${query}` : ""}`};
}

at("start").onclick = () => {
    link.ask(lab.running ? "pause" : "start");
    running(!lab.running);
};
at("step").onclick = () => link.ask("step");
at("reset").onclick = () => {
    at("status").hidden = true;
    link.ask("reset");
};
at("share").onclick = () => show(t("share"), t("shareHint"), address().whole);
at("code").onclick = () => link.ask("code", {network: 1});
at("report").onclick = () => [0, 1].forEach((network) => link.ask("report", {network}));
for (const button of document.querySelectorAll("#accidents button")) {
    button.onclick = () => {
        link.ask("accident", {kind: button.dataset.kind});
        lab.accidents.push(lab.step);
    };
}
at("whole").onclick = () => look(lab.layer);
at("language").onclick = () => {
    const query = new URLSearchParams(lab.wanted);
    query.set("lang", language === "zh" ? "en" : "zh");
    location.search = `?${query}`;
};

for (const canvas of document.querySelectorAll(".by-layer")) {
    const follow = (event) => {
        const box = canvas.getBoundingClientRect();
        const layer = layerScale(box.width, most()).at(event.clientX - box.left);
        const which = Number(canvas.id.at(-1)), columns = lab.networks[which]?.strip.columns;
        const inside = canvas.id.startsWith("strip") && columns;
        const neuron = inside ? Math.min(columns - 1, Math.floor(((event.clientY - box.top) / box.height) * columns)) : null;
        if (layer !== lab.layer || neuron !== lab.neuron) look(layer, neuron);
    };
    canvas.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && follow(event));
    canvas.addEventListener("pointerdown", follow);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "slider");
    canvas.setAttribute("aria-valuemin", 1);
    canvas.addEventListener("keydown", (event) => {
        const ten = Math.max(1, Math.round(most() / 10));
        const moves = {ArrowLeft: -1, ArrowRight: 1, PageUp: ten, PageDown: -ten, Home: -1e6, End: 1e6};
        if (!(event.key in moves)) return;
        event.preventDefault();
        look(lab.layer + moves[event.key]);
    });
}

document.querySelectorAll(".lens").forEach((lens, network) => {
    lens.querySelector("input").addEventListener("input", ({target}) => {
        const layers = lab.built.networks[network].layers;
        link.ask("slope", {network, layer: Math.min(lab.layer, layers - 1), value: 10 ** target.value});
    });
});

document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("input, select, button, textarea, dialog, summary");
    if (event.key === " " && !busy && !event.target.closest("[role=slider]")) {
        event.preventDefault();
        at("start").click();
    }
});

// What is drawn.

/** Draw with the next frame of the screen: everything, or only the profile that is still on its way. */
function draw(everything = true) {
    lab.changed ||= everything;
    if (lab.dirty) return;
    lab.dirty = true;
    requestAnimationFrame(() => {
        lab.dirty = false;
        if (!lab.built) return;
        const layers = lab.built.networks.map((network) => network?.layers ?? 0);
        const moving = approach(lab.networks, still.matches);
        drawProfile(at("profile"), layers, lab.layer);
        if (lab.changed) paint(layers);
        lab.changed = false;
        if (moving) draw(false);
    });
}

function paint(layers) {
    const {built, networks, layer, neuron} = lab;
    drawSlopes(at("slopes"), networks, layers, layer);
    drawCurves(at("loss"), lab.histories, "loss", lab.accidents);
    drawCurves(at("score"), lab.histories, "score", lab.accidents, built.metric === "accuracy" ? [0, 100] : [-1, 1]);
    [0, 1].forEach((which) => {
        const network = networks[which], own = Math.min(layer, Math.max(0, layers[which] - 1));
        lab.heats[which]?.draw(at(`heat-${which}`), own, "AB"[which]);
        drawStrip(at(`strip-${which}`), network?.strip, layers[which] || 1, own, neuron, "AB"[which]);
        drawAnswers(at(`surface-${which}`), built, network, which);
        const lens = document.querySelectorAll(".lens")[which];
        drawLens(lens.querySelector("canvas"), built, network, which);
        showSlope(lens.querySelector("label"), network, built, which, own);
    });
}

function reached(network) {
    const sizes = network?.sizes ?? [];
    if (!sizes.length || sizes[0] === null || sizes.at(-1) === null) return t("none");
    return t("reach", {value: powerText(sizes[0] - sizes.at(-1))});
}

/** The same in words: titles, the legend, and what a screen reader says. */
function describe() {
    const {built, networks, layer, neuron} = lab, metric = t(built.metric);
    const names = [0, 1].map((which) => t(lab.setting[`${"ab"[which]}.kind`]));
    const items = networks.map((network, which) => {
        const item = document.createElement("span");
        item.className = "ab"[which];
        item.textContent = `${"AB"[which]} ${names[which]}: ${network ? reached(network) : "–"}`;
        return item;
    });
    document.querySelector("#card-profile .legend").replaceChildren(...items);
    const picture = built.images ? "answers" : built.classes || !built.points ? "surface" : "fit";
    at("surface-title").textContent = t(picture);
    at("score-title").textContent = metric;
    at("lens-title").textContent = t(neuron === null ? "layer" : "neuron", {layer: layer + 1, neuron: (neuron ?? 0) + 1});
    at("whole").hidden = neuron === null;
    const parts = networks.map((network, which) => {
        const size = network?.sizes[Math.min(layer, network.sizes.length - 1)] ?? null;
        return t("gradient", {name: "AB"[which], value: powerText(size)});
    });
    for (const canvas of document.querySelectorAll(".by-layer")) {
        const title = canvas.closest(".card").querySelector("b").textContent;
        canvas.setAttribute("aria-label", /\d$/.test(canvas.id) ? `${title}, ${"AB"[canvas.id.at(-1)]}` : title);
        canvas.setAttribute("aria-valuemax", most());
        canvas.setAttribute("aria-valuenow", layer + 1);
        canvas.setAttribute("aria-valuetext", t("valueText", {layer: layer + 1, layers: most(), parts: parts.join(", ")}));
    }
    const spoken = networks.map((network, which) => t("summaryPart", {
        name: "AB"[which], kind: names[which], loss: network?.loss?.toPrecision(3) ?? "–", metric: metric.split(/[,，]/)[0],
        score: `${network?.score?.toFixed(1) ?? "–"}${metric.includes("%") ? " %" : ""}`, reach: reached(network),
    }));
    for (const [id, title] of [["surface-", picture], ["lens-", "lens-title"]]) {
        [0, 1].forEach((which) => {
            at(id + which).setAttribute("role", "img");
            at(id + which).setAttribute("aria-label", `${id === "lens-" ? at(title).textContent : t(title)}: ${spoken[which]}`);
        });
    }
    for (const id of ["loss", "score"]) {
        at(id).setAttribute("role", "img");
        at(id).setAttribute("aria-label", `${id === "loss" ? t("loss") : metric}: ${spoken.join(" ")}`);
    }
    if (performance.now() - lab.spoken > SPOKEN || !lab.running) {
        lab.spoken = performance.now();
        at("summary").textContent = t("summary", {step: lab.step, parts: spoken.join(" ")});
    }
}

// Begin.

translate();
readTheme();
idle(true);
at("language").textContent = language === "zh" ? "EN" : "中文";
at("language").lang = language === "zh" ? "en" : "zh";
running(false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (readTheme(), draw()));
new ResizeObserver(() => draw()).observe(document.querySelector("main"));
if (innerWidth < 900) at("setup").open = false;
link = new Link({
    message: (message) => heard[message.kind]?.(message),
    query: () => new URLSearchParams(lab.wanted),
    state(connected, reason) {
        if (connected && lab.built) say(t("again", {step: lab.step.toLocaleString("en")}));
        else if (!connected) {
            running(false);
            say(reason || t("lost"));
        }
    },
});
new Tour(arrange, () => lab.setting);
