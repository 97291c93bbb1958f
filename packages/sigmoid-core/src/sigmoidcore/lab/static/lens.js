// The lens: one layer's sigmoid, with the histogram of z under it and the derivative over it.

import {colours, fresh, line} from "./paint.js";
import {t} from "./texts.js";

const POINTS = 121;

export function drawLens(canvas, built, network, which) {
    const {context, width, height} = fresh(canvas);
    if (!network) return;
    const reach = built.reach, [slope] = network.chosen, colour = colours.networks[which];
    const slopes = built.networks[which].slopes;
    const bottom = height - 16, middle = height * 0.6;
    const x = (z) => ((z / reach + 1) / 2) * width;
    const zs = Array.from({length: POINTS}, (_, i) => (2 * reach * i) / (POINTS - 1) - reach);
    const sigmoid = zs.map((z) => 1 / (1 + Math.exp(-z)));
    const curve = slopes ? sigmoid : zs.map((z) => Math.max(0, z) / reach);
    const most = network.histogram.reduce((a, b) => Math.max(a, b), 1), bin = width / network.histogram.length;
    context.globalAlpha = 0.35;
    context.fillStyle = colour;
    network.histogram.forEach((count, i) => {
        const high = (count / most) * (bottom - middle);
        context.fillRect(i * bin + 0.5, bottom - high, bin - 1, high);
    });
    context.globalAlpha = 1;
    context.strokeStyle = colours.line;
    context.strokeRect(0.5, 0.5, width - 1, bottom);
    line(context, [0, 0], () => x(0), (value) => value, colours.line, 1);
    const y = (value) => middle - value * (middle - 12);
    line(context, curve, (i) => x(zs[i]), y, colours.ink, 2);
    if (slopes) {
        const derivative = sigmoid.map((s) => slope * s * (1 - s)), top = Math.max(1, slope / 4);
        context.setLineDash([5, 3]);
        line(context, derivative.map((d) => d / top), (i) => x(zs[i]), y, colour, 2);
        context.setLineDash([]);
        context.fillStyle = colour;
        context.textAlign = "left";
        context.textBaseline = "top";
        context.fillText(`α σ′(z) ≤ ${Number((slope / 4).toPrecision(2))}`, 6, 5);
    }
    context.fillStyle = colours.soft;
    context.textBaseline = "top";
    for (const tick of [-5, 0, 5]) {
        context.textAlign = "center";
        context.fillText(tick, x(tick), bottom + 4);
    }
    context.textAlign = "right";
    context.fillText("z", width - 2, bottom + 4);
}

/** Show a layer's slope at its slider, unless it is being dragged. */
export function showSlope(label, network, built, which, layer) {
    const input = label.querySelector("input"), text = label.querySelector("span");
    const slopes = network?.slopes ?? [];
    const slope = slopes[Math.min(layer, slopes.length - 1)];
    input.disabled = slope === undefined;
    input.setAttribute("aria-label", t("setSlope", {layer: layer + 1, name: "AB"[which]}));
    text.textContent = slope === undefined ? t("noSlope") : t("slope", {value: Number(slope.toPrecision(3))});
    if (slope !== undefined && !input.matches(":active")) input.value = Math.log10(slope);
    if (slope !== undefined) input.setAttribute("aria-valuetext", text.textContent);
}
