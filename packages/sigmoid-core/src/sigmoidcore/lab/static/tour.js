// The guided tour: five set-ups, each with a text and the part of the page to look at.

import {t} from "./texts.js";

const PLAIN = {"a.kind": "sigmoid", "a.rate": 0.01, "a.equalizer": false};
const CORE = {"b.kind": "sigmoid-core", "b.rate": 0.03, "b.equalizer": true};
const STEPS = [
    {card: "card-profile", set: {...PLAIN, ...CORE, data: "moons", depth: 3, width: 16}, run: true},
    {card: "card-profile", set: {...PLAIN, ...CORE, data: "moons", depth: 30, width: 16}, run: true},
    {card: "card-lens", set: {...PLAIN, ...CORE, data: "moons", depth: 30, width: 16}, run: false, layer: 14},
    {card: "card-profile", set: {...PLAIN, ...CORE, data: "moons", depth: 100, width: 16, "b.rate": 0.01}, run: true},
    {
        card: "card-profile", run: true,
        set: {...CORE, "a.kind": "sigmoid-core", "a.rate": 0.03, "a.equalizer": false, data: "moons", depth: 30, width: 16},
    },
];

export class Tour {
    /**
     * @param {function} arrange - takes a set-up, whether it runs, and the layer to look at.
     * @param {function} current - gives the set-up of now, to which the end returns.
     */
    constructor(arrange, current) {
        Object.assign(this, {arrange, current});
        this.place = -1;
        this.panel = document.getElementById("guide");
        const on = (id, action) => (document.getElementById(id).onclick = action);
        on("tour", () => {
            if (this.place < 0) this.before = this.current();
            this.go(0);
        });
        on("guide-next", () => this.go(this.place + 1));
        on("guide-back", () => this.go(this.place - 1));
        on("guide-end", () => this.end());
        this.panel.onkeydown = ({key}) => key === "Escape" && this.end();
    }

    go(place) {
        if (place >= STEPS.length) return this.end();
        this.place = place;
        const step = STEPS[place], [title, text] = t("guide")[place];
        this.panel.hidden = false;
        document.getElementById("guide-title").textContent = title;
        document.getElementById("guide-text").textContent = text;
        document.getElementById("guide-place").textContent = `${place + 1} / ${STEPS.length}`;
        document.getElementById("guide-back").disabled = place === 0;
        document.getElementById("guide-next").hidden = place === STEPS.length - 1;
        this.point(step.card);
        this.arrange(step.set, step.run, step.layer);
        document.getElementById("guide-title").focus({preventScroll: true});
    }

    point(id) {
        document.querySelector(".card.pointed")?.classList.remove("pointed");
        const card = id && document.getElementById(id);
        card?.classList.add("pointed");
        card?.scrollIntoView({block: "nearest", behavior: "auto"});
    }

    end() {
        this.arrange(this.before, false);
        this.place = -1;
        this.panel.hidden = true;
        this.point(null);
        document.getElementById("tour").focus();
    }
}
