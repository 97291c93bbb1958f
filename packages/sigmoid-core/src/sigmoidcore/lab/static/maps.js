// Pictures made of cells: the gradient by layer and step, saturation of neurons, and what a network answers.

import {LEFT, RIGHT, crosshair, layerScale} from "./charts.js";
import {bytes, classes, colours, fresh, line, viridis} from "./paint.js";
import {t} from "./texts.js";

const ROWS = 128, DECADES = 10;

/** The gradient by layer (across) and step (down). When it is full, every two rows become one. */
export class HeatMap {
    constructor(layers) {
        this.canvas = new OffscreenCanvas(layers, ROWS);
        this.context = this.canvas.getContext("2d", {willReadFrequently: true});
        this.layers = layers;
        this.rows = 0;
        this.every = 1;
        this.seen = 0;
    }

    add(sizes) {
        if (this.seen++ % this.every) return;
        if (this.rows === ROWS) {
            const old = this.context.getImageData(0, 0, this.layers, ROWS).data;
            const half = new ImageData(this.layers, ROWS);
            const stride = 4 * this.layers;
            for (let row = 0; row < ROWS / 2; row++) half.data.set(old.subarray(2 * row * stride, (2 * row + 1) * stride), row * stride);
            this.context.putImageData(half, 0, 0);
            this.rows = ROWS / 2;
            this.every *= 2;
        }
        const image = new ImageData(this.layers, 1);
        const top = sizes.reduce((most, size) => (size === null ? most : Math.max(most, size)), -400);
        sizes.forEach((size, i) => {
            const share = size === null ? 0 : Math.max(0, 1 + (size - top) / DECADES);
            image.data.set([...viridis[Math.round(share * 255)], 255], 4 * i);
        });
        this.context.putImageData(image, 0, this.rows++);
    }

    draw(canvas, chosen, name) {
        const {context, width, height} = fresh(canvas);
        const box = frame(context, width, height, name);
        context.imageSmoothingEnabled = false;
        if (this.rows) context.drawImage(this.canvas, 0, 0, this.layers, this.rows, ...box);
        crosshair(context, layerScale(width, this.layers).x(Math.min(chosen, this.layers - 1)), 0, height);
    }
}

/** The place of a picture by layer, with the name of its network beside it. */
function frame(context, width, height, name) {
    context.fillStyle = colours.networks[name === "A" ? 0 : 1];
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(name, LEFT / 2, height / 2);
    context.fillStyle = colours.line;
    const box = [LEFT, 0, width - LEFT - RIGHT, height];
    context.fillRect(...box);
    return box;
}

/** The mean relative slope of every neuron: layers across, neurons down. */
export function drawStrip(canvas, strip, layers, chosen, neuron, name) {
    const {context, width, height} = fresh(canvas);
    const [left, top, wide, high] = frame(context, width, height, name);
    if (!strip) return;
    const values = bytes(strip.values), rows = strip.rows.length;
    const image = new ImageData(rows, strip.columns);
    for (let layer = 0; layer < rows; layer++) {
        for (let n = 0; n < strip.columns; n++) {
            image.data.set([...colours.strip[values[layer * strip.columns + n]], 255], 4 * (n * rows + layer));
        }
    }
    paste(context, image, left, top, wide, high, false);
    crosshair(context, layerScale(width, layers).x(Math.min(chosen, layers - 1)), 0, height);
    if (neuron !== null) {
        context.strokeStyle = colours.mark;
        context.strokeRect(layerScale(width, layers).x(Math.min(chosen, layers - 1)) - 3, ((neuron + 0.5) / strip.columns) * high - 3, 6, 6);
    }
}

const pasted = new OffscreenCanvas(1, 1);

function paste(context, image, left, top, width, height, smooth) {
    pasted.width = image.width;
    pasted.height = image.height;
    pasted.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(pasted, left, top, width, height);
}

/** What a network answers: a plane of decisions, a curve through points, or images. */
export function drawAnswers(canvas, built, network, which) {
    const {context, width, height} = fresh(canvas);
    context.fillStyle = colours.line;
    context.fillRect(0, 0, width, height);
    if (network?.surface) drawSurface(context, width, height, built, network.surface);
    else if (network?.fit) drawFit(context, width, height, built, network.fit, which);
    else if (network?.answers && built.images) drawImages(context, width, height, built, network.answers);
    else words(context, width, height, network ? t("nothing") : "–");
    context.fillStyle = colours.networks[which];
    context.fillRect(0, 0, 20, 20);
    context.fillStyle = colours.card;
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("AB"[which], 10, 11);
}

function words(context, width, height, text) {
    context.fillStyle = colours.soft;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, width / 2, height / 2, width - 12);
}

function drawSurface(context, width, height, built, surface) {
    const winners = bytes(surface.classes), sure = bytes(surface.sure), side = built.grid;
    const image = new ImageData(side, side), even = 1 / built.classes, paper = colours.cardRgb;
    for (let i = 0; i < side * side; i++) {
        const share = 0.12 + (0.7 * (sure[i] / 255 - even)) / (1 - even);
        const colour = classes[winners[i] % classes.length];
        image.data.set([...colour.map((part, c) => paper[c] + (part - paper[c]) * share), 255], 4 * i);
    }
    paste(context, image, 0, 0, width, height, true);
    const at = (value, size) => ((value / built.edge + 1) / 2) * size;
    for (let i = 0; i < built.targets.length; i++) {
        context.beginPath();
        context.arc(at(built.points[2 * i], width), height - at(built.points[2 * i + 1], height), 2.6, 0, 7);
        context.fillStyle = `rgb(${classes[built.targets[i] % classes.length]})`;
        context.fill();
        context.strokeStyle = colours.card;
        context.lineWidth = 0.8;
        context.stroke();
    }
}

function drawFit(context, width, height, built, fit, which) {
    const x = (value) => ((value / built.edge + 1) / 2) * width;
    const low = Math.min(...built.targets), high = Math.max(...built.targets);
    const y = (value) => height * (0.85 - 0.7 * Math.max(-0.2, Math.min(1.2, (value - low) / (high - low || 1))));
    for (const level of [low, high]) line(context, [level, level], (i) => i * width, y, colours.soft, 0.5);
    line(context, fit, (i) => (i / (fit.length - 1)) * width, y, colours.networks[which], 2.5);
    context.fillStyle = colours.ink;
    built.points.forEach((point, i) => {
        context.beginPath();
        context.arc(x(point), y(built.targets[i]), 4, 0, 7);
        context.fill();
    });
}

function drawImages(context, width, height, built, answers) {
    const images = bytes(built.images), across = 6, down = 4, wide = width / across, high = height / down;
    answers.forEach((answer, i) => {
        const image = new ImageData(8, 8), right = answer === built.targets[i];
        for (let p = 0; p < 64; p++) image.data.set([255, 255, 255, images[64 * i + p]], 4 * p);
        const left = (i % across) * wide, top = Math.floor(i / across) * high;
        context.fillStyle = right ? "#00634a" : "#8c3a00";
        context.fillRect(left + 1, top + 1, wide - 2, high - 2);
        const size = Math.min(wide, high) - 8;
        paste(context, image, left + (wide - size) / 2, top + (high - size) / 2, size, size, false);
        context.fillStyle = "#fff";
        context.font = "700 12px system-ui, sans-serif";
        context.textAlign = "right";
        context.textBaseline = "bottom";
        context.fillText(`${right ? "✓" : "✗"}${answer}`, left + wide - 3, top + high - 2);
    });
}
