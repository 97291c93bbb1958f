// Colours, and canvases that are as sharp as the screen.

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const CLASSES = ["#7b5ea7", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7", "#0072b2", "#999999", "#f0e442", "#000000"];

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function ramp(stops) {
    const colours = stops.map(rgb);
    return Array.from({length: 256}, (_, i) => {
        const at = (i / 255) * (colours.length - 1);
        const low = Math.min(Math.floor(at), colours.length - 2);
        return colours[low].map((part, c) => Math.round(part + (colours[low + 1][c] - part) * (at - low)));
    });
}

export const viridis = ramp(VIRIDIS);
export const classes = CLASSES.map(rgb);
export const colours = {};

/** Read the colours of the theme from the style sheet; called again when the theme changes. */
export function readTheme() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ink", "soft", "line", "paper", "card", "a", "b", "shut", "open", "mark"]) {
        colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    colours.networks = [colours.a, colours.b];
    colours.strip = ramp([colours.shut, colours.open]);
    colours.cardRgb = rgb(colours.card);
}

/** The context of a canvas in units of CSS pixels, emptied, with its size. */
export function fresh(canvas) {
    const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
    const wide = Math.round(width * ratio), high = Math.round(height * ratio);
    if (canvas.width !== wide || canvas.height !== high) {
        canvas.width = wide;
        canvas.height = high;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    return {context, width, height};
}

/** Bytes in base64 as numbers from 0 to 255. */
export function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** A line through values; what is null interrupts it. */
export function line(context, values, x, y, colour, width = 2) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.beginPath();
    let drawing = false;
    values.forEach((value, i) => {
        if (value === null || Number.isNaN(value)) drawing = false;
        else if (drawing) context.lineTo(x(i), y(value));
        else context.moveTo(x(i), y(value));
        drawing = value !== null && !Number.isNaN(value);
    });
    context.stroke();
}

/** Horizontal lines with their labels at the left. */
export function axis(context, ticks, y, left, right, text) {
    context.strokeStyle = colours.line;
    context.fillStyle = colours.soft;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks) {
        const at = Math.round(y(tick)) + 0.5;
        context.beginPath();
        context.moveTo(left, at);
        context.lineTo(right, at);
        context.stroke();
        context.fillText(text(tick), left - 6, at);
    }
}

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
export const raised = (power) => (power < 0 ? "⁻" : "") + [...String(Math.abs(power))].map((digit) => RAISED[digit]).join("");

/** 10 to this power, in words: 0.12, or 3×10⁻⁸. */
export function powerText(log) {
    if (log === null) return "0";
    if (log > -2.5 && log < 4) return String(Number((10 ** log).toPrecision(2)));
    const power = Math.floor(log);
    return `${(10 ** (log - power)).toFixed(0)}×10${raised(power)}`;
}

/** A few round numbers from low to high. */
export function ticksOf(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const by = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
    const found = [];
    for (let tick = Math.ceil(low / by) * by; tick <= high + by / 1e6; tick += by) found.push(Math.round(tick / by) * by);
    return found;
}
