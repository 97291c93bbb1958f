// The connection to the server: it comes back after a restart, and asks for the same set-up again.

import {language} from "./texts.js";

const RETRY = 700;

export class Link {
    /** @param {object} on - `message(message)` and `state(connected, reason)`, and `query()` for the set-up to ask for. */
    constructor(on) {
        this.on = on;
        const token = new URLSearchParams(location.hash.slice(1)).get("token");
        if (token) {
            sessionStorage.setItem("token", token);
            history.replaceState(null, "", location.pathname + location.search);
        }
        this.open();
    }

    open() {
        const query = this.on.query();
        query.set("lang", language);
        const token = sessionStorage.getItem("token");
        if (token) query.set("token", token);
        const scheme = location.protocol === "https:" ? "wss" : "ws";
        this.socket = new WebSocket(`${scheme}://${location.host}/ws?${query}`);
        this.socket.onopen = () => this.on.state(true);
        this.socket.onmessage = ({data}) => this.on.message(JSON.parse(data));
        this.socket.onclose = ({code, reason}) => {
            this.on.state(false, reason);
            if (code !== 4403) setTimeout(() => this.open(), RETRY);
        };
    }

    /** Ask for something; what is asked without a connection is lost, the set-up is not. */
    ask(what, values = {}) {
        if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({do: what, ...values}));
    }
}
