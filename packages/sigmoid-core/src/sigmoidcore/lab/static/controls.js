// The controls of a set-up, made from the options that the server names, with their bounds.

import {t} from "./texts.js";

const LOG = new Set(["depth", "width", "a.rate", "b.rate", "a.saturation", "b.saturation"]);
const STOPS = 160;

/** The values of a slider from low to high, evenly on a log scale; whole numbers come once. */
function stopsOf({low, high, whole}) {
    const value = (i) => low * (high / low) ** (i / STOPS);
    const rounded = Array.from({length: STOPS + 1}, (_, i) => (whole ? Math.round(value(i)) : Number(value(i).toPrecision(2))));
    return [...new Set(rounded)];
}

const nearest = (stops, value) => stops.reduce((best, stop, i) => (Math.abs(Math.log(stop / value)) < Math.abs(Math.log(stops[best] / value)) ? i : best), 0);

function make(tag, values = {}, ...children) {
    const element = Object.assign(document.createElement(tag), values);
    element.append(...children);
    return element;
}

export class Controls {
    /** @param {function} change - called with the flat set-up whenever a control is changed. */
    constructor(form, hello, change) {
        this.form = form;
        this.hello = hello;
        this.change = change;
        this.values = {};
        this.rows = {};
        form.replaceChildren();
        form.onsubmit = (event) => event.preventDefault();
        const shared = make("fieldset", {className: "shared"});
        for (const name of ["data", "depth", "width", "batch", "seed"]) shared.append(this.row(name));
        form.append(shared);
        for (const which of ["a", "b"]) {
            const field = make("fieldset", {className: `network ${which}`});
            for (const key of ["kind", "rate", "saturation", "optimizer", "equalizer"]) field.append(this.row(`${which}.${key}`));
            form.append(field);
        }
    }

    row(name) {
        const option = this.hello.options[name], key = name.split(".").at(-1);
        const title = key === "kind" ? t("kind", {name: name[0].toUpperCase()}) : t(key);
        const output = make("output");
        const stops = LOG.has(name) ? stopsOf(option) : null;
        let input;
        if (option.names) {
            const names = option.names.filter((choice) => choice !== "own" || this.hello.own);
            input = make("select", {}, ...names.map((choice) => make("option", {value: choice, textContent: t(choice)})));
        } else if (typeof option.default === "boolean") {
            input = make("input", {type: "checkbox"});
        } else if (stops) {
            input = make("input", {type: "range", min: 0, max: stops.length - 1, step: 1});
        } else {
            input = make("input", {type: "number", min: option.low, max: option.high, step: 1});
        }
        input.name = name;
        input.oninput = () => this.label(name);
        input.onchange = () => this.changed(name);
        const row = make("label", {className: `row ${key}`}, make("span", {textContent: title}), input, ...(input.type === "range" ? [output] : []));
        this.rows[name] = {row, input, output, option, stops};
        return row;
    }

    /** The value of a control. */
    read(name) {
        const {input, option, stops} = this.rows[name];
        if (input.type === "checkbox") return input.checked;
        if (option.names) return input.value;
        if (stops) return stops[input.value];
        return Math.round(Math.max(option.low, Math.min(option.high, Number(input.value) || 0)));
    }

    label(name, value = this.read(name)) {
        const {input, output, stops} = this.rows[name];
        if (!stops) return;
        output.textContent = value.toLocaleString("en", {maximumSignificantDigits: 4});
        input.setAttribute("aria-valuetext", output.textContent);
    }

    changed(name) {
        const value = this.read(name);
        const next = {...this.values, [name]: value};
        if (name.endsWith(".kind")) {
            next[`${name[0]}.rate`] = this.hello.rates[value];
            next[`${name[0]}.equalizer`] = value === "sigmoid-core";
        }
        this.change(next);
    }

    /** Show a set-up. */
    show(values) {
        this.values = values;
        for (const [name, {row, input, option, stops}] of Object.entries(this.rows)) {
            const value = values[name];
            if (input.type === "checkbox") input.checked = value;
            else if (stops) input.value = nearest(stops, value);
            else if (document.activeElement !== input || option.names) input.value = value;
            this.label(name, value);
            const kind = values[`${name[0]}.kind`];
            if (name.endsWith(".saturation")) row.hidden = kind !== "sigmoid-core";
            if (name.endsWith(".equalizer")) row.hidden = !this.hello.slopes.includes(kind);
        }
    }
}
