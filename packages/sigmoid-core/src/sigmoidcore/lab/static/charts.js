// Charts by layer (input left, loss right) and by step.

import {axis, colours, fresh, line, powerText, raised, ticksOf} from "./paint.js";
import {t} from "./texts.js";

export const LEFT = 44, RIGHT = 12;
const UNDER = 9; // from a chart by layer to the numbers under it

/** Where the layers are: the same in all charts by layer. */
export function layerScale(width, layers) {
    const room = width - LEFT - RIGHT;
    return {
        x: (layer) => LEFT + ((layer + 0.5) / layers) * room,
        at: (x) => Math.max(0, Math.min(layers - 1, Math.floor(((x - LEFT) / room) * layers))),
    };
}

/** The line at the chosen layer. */
export function crosshair(context, x, top, bottom) {
    context.strokeStyle = colours.mark;
    context.lineWidth = 1;
    context.setLineDash([3, 3]);
    context.beginPath();
    context.moveTo(Math.round(x) + 0.5, top);
    context.lineTo(Math.round(x) + 0.5, bottom);
    context.stroke();
    context.setLineDash([]);
}

/** Numbers under a chart by layer. */
function layerAxis(context, width, bottom, layers, scale) {
    context.fillStyle = colours.soft;
    context.textBaseline = "top";
    context.textAlign = "center";
    const all = layers < 3 ? [] : ticksOf(1, layers, Math.min(10, width / 70));
    const ticks = all.filter((n) => Number.isInteger(n) && n > 0 && scale.x(n - 1) > 76 && scale.x(n - 1) < width - 60);
    for (const tick of ticks) context.fillText(tick, scale.x(tick - 1), bottom + UNDER);
    context.textAlign = "left";
    context.fillText(`← ${t("input")}`, 2, bottom + UNDER);
    context.textAlign = "right";
    context.fillText(`${t("toLoss")} →`, width, bottom + UNDER);
}

const shown = {low: -3, high: 0, sizes: []};

/** Move what is shown towards the latest numbers; returns whether it is still on its way. */
export function approach(networks, still) {
    let moving = false;
    const near = (now, next) => {
        const step = still || Math.abs(next - now) < 0.003 ? next : now + (next - now) * 0.3;
        moving ||= step !== next;
        return step;
    };
    networks.forEach((network, which) => {
        const sizes = network?.sizes ?? [], before = shown.sizes[which] ?? [];
        const same = before.length === sizes.length;
        shown.sizes[which] = sizes.map((v, i) => (v === null || !same || before[i] === null ? v : near(before[i], v)));
    });
    const known = networks.flatMap((network) => (network?.sizes ?? []).filter((value) => value !== null));
    if (known.length) {
        const high = Math.ceil(known.reduce((a, b) => Math.max(a, b)) + 0.2);
        const low = Math.floor(Math.min(known.reduce((a, b) => Math.min(a, b)) - 0.2, high - 4));
        shown.high = near(shown.high, high);
        shown.low = near(shown.low, Math.max(low, high - 45));
    }
    return moving;
}

/** The gradient profiles of both networks on one log axis. */
export function drawProfile(canvas, layers, chosen) {
    const {context, width, height} = fresh(canvas);
    const top = 8, bottom = height - 26, most = Math.max(...layers, 1);
    const y = (log) => top + ((shown.high - Math.max(log, shown.low)) / (shown.high - shown.low)) * (bottom - top);
    const ticks = ticksOf(shown.low, shown.high, Math.min(10, height / 30)).filter(Number.isInteger);
    axis(context, ticks, y, LEFT, width - RIGHT, (power) => `10${raised(power)}`);
    const scale = layerScale(width, most);
    layerAxis(context, width, bottom, most, scale);
    crosshair(context, scale.x(chosen), top, bottom);
    shown.sizes.forEach((sizes, which) => {
        if (!sizes.length) return;
        const own = layerScale(width, sizes.length), colour = colours.networks[which];
        const first = sizes.findIndex((size) => size !== null);
        const gone = first < 0 ? sizes.length : first;
        if (gone) { // gradients that are exactly 0 lie on the floor
            line(context, Array(gone).fill(0), own.x, () => bottom - 1 - 2 * which, colour, 3);
        }
        line(context, sizes, own.x, y, colour, 2.5);
        if (sizes.length <= 60) dots(context, sizes, own.x, y, colour, which);
        const near = Math.min(sizes.length - 1, Math.floor((chosen / most) * sizes.length));
        context.fillStyle = colour;
        context.beginPath();
        context.arc(own.x(near), sizes[near] === null ? bottom - 1 : y(sizes[near]), 5, 0, 7);
        context.fill();
    });
}

/** Marks that tell the networks apart without colour: circles and squares. */
function dots(context, values, x, y, colour, which) {
    context.fillStyle = colour;
    values.forEach((value, i) => {
        if (value === null) return;
        context.beginPath();
        if (which) context.rect(x(i) - 2.5, y(value) - 2.5, 5, 5);
        else context.arc(x(i), y(value), 2.8, 0, 7);
        context.fill();
    });
}

/** The slopes of both networks, on a log axis. */
export function drawSlopes(canvas, networks, layers, chosen) {
    const {context, width, height} = fresh(canvas);
    const top = 6, bottom = height - 26, most = Math.max(...layers, 1), scale = layerScale(width, most);
    const logs = networks.map((network) => (network?.slopes ?? []).map((slope) => Math.log10(slope)));
    const all = logs.flat();
    const low = Math.min(-0.2, all.reduce((a, b) => Math.min(a, b), 0) - 0.1);
    const high = Math.max(1, all.reduce((a, b) => Math.max(a, b), 0) + 0.1);
    const y = (log) => top + ((high - log) / (high - low)) * (bottom - top);
    axis(context, [-3, -2, -1, 0, 1, 2, 3].filter((log) => log >= low && log <= high), y, LEFT, width - RIGHT, powerText);
    layerAxis(context, width, bottom, most, scale);
    crosshair(context, scale.x(chosen), top, bottom);
    logs.forEach((values, which) => {
        const own = layerScale(width, values.length);
        line(context, values, own.x, y, colours.networks[which], 2);
        if (values.length <= 60) dots(context, values, own.x, y, colours.networks[which], which);
    });
}

/** A curve by step for each network. */
export function drawCurves(canvas, histories, key, accidents, range) {
    const {context, width, height} = fresh(canvas);
    const left = 38, right = width - 6, top = 8, bottom = height - 18;
    const all = histories.flat().map((point) => point[key]).filter((value) => value !== null);
    let [low, high] = range ?? [0, Math.max(0.1, ...all.slice(-4000).map((value) => Math.min(value, 20)))];
    if (!range) high *= 1.05;
    const last = Math.max(1, ...histories.map((points) => points.at(-1)?.step ?? 1));
    const y = (value) => top + ((high - Math.min(high, Math.max(low, value))) / (high - low)) * (bottom - top);
    const x = (step) => left + (step / last) * (right - left);
    axis(context, ticksOf(low, high, Math.min(8, height / 30)), y, left, right, (tick) => String(Number(tick.toPrecision(3))));
    context.textBaseline = "top";
    context.textAlign = "right";
    context.fillText(last.toLocaleString(), right, bottom + 4);
    context.textAlign = "left";
    context.fillText("0", left, bottom + 4);
    for (const step of accidents) context.fillRect(x(Math.min(step, last)), top, 1, bottom - top);
    histories.forEach((points, which) => {
        const colour = colours.networks[which];
        line(context, points.map((point) => point[key]), (i) => x(points[i].step), y, colour);
        const end = points.at(-1);
        if (end && end[key] !== null) dots(context, [end[key]], () => x(end.step), y, colour, which);
    });
}
