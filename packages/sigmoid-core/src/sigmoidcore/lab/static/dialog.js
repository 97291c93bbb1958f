// One dialog for what leaves the page: an address to share, and the code of a network.

import {t} from "./texts.js";

const at = (id) => document.getElementById(`dialog-${id}`);
const dialog = document.getElementById("dialog");
let fileName = "";

/** Offer a text to be downloaded. */
export function save(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Show a text that can be copied; `choices` are [label, action] for other texts, `file` a name to save it under. */
export function show(title, hint, text, {choices = [], file = ""} = {}) {
    at("title").textContent = title;
    at("hint").textContent = hint;
    at("text").value = text;
    at("text").rows = file ? 16 : 3;
    at("text").setAttribute("aria-label", title);
    at("save").hidden = !file;
    fileName = file;
    at("copy").textContent = t("copy");
    at("choice").replaceChildren(...choices.map(([label, action, chosen]) => {
        const button = document.createElement("button");
        button.textContent = label;
        button.onclick = action;
        button.setAttribute("aria-pressed", chosen);
        return button;
    }));
    if (!dialog.open) dialog.showModal();
}

at("close").onclick = () => dialog.close();
at("save").onclick = () => save(fileName, at("text").value, "text/x-python");
at("copy").onclick = async () => {
    try {
        await navigator.clipboard.writeText(at("text").value);
    } catch { // without the permission, or not on a secure address
        at("text").select();
        document.execCommand("copy");
    }
    at("copy").textContent = t("copied");
};
