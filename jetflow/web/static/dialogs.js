// Dialogs that ask before an action. After an error they stay open, with the typed text.

import { post } from "./api.js";
import { h, toast } from "./dom.js";
import { visible } from "./format.js";

/**
 * Ask, and call `submit` when confirmed. `fields` are elements. `submit` returns the outcome's text, or throws.
 * Resolves to true if `submit` succeeded.
 */
export function ask({ title, text, fields = [], confirm, danger = false, submit }) {
  return new Promise((resolve) => {
    const problem = h("p", { class: "problem", role: "alert", hidden: true });
    const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
    let done = false;
    const form = h(
      "form",
      {
        onsubmit: async (event) => {
          event.preventDefault();
          go.disabled = true;
          problem.hidden = true;
          try {
            toast(await submit(form));
            done = true;
            dialog.close();
          } catch (error) {
            problem.textContent = error.message;
            problem.hidden = false;
          }
          go.disabled = false;
        },
      },
      h("h2", {}, title),
      text && h("p", {}, text),
      fields,
      problem,
      h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => dialog.close() }, "Not now"), go),
    );
    const dialog = h("dialog", { "aria-label": title }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("[autofocus]") ?? go).focus();
  });
}

export const field = (label, input, hint) => h("label", { class: "field" }, h("span", {}, label), input, hint && h("small", {}, hint));

/** Throw if the text is not JSON. The message says where the error is. */
function checkJson(text) {
  if (!text.trim()) return;
  try {
    JSON.parse(text);
  } catch (error) {
    throw new Error(`The data is not JSON: ${error.message}`);
  }
}

export function askSignal({ queue, id, name = "", names = [] }) {
  const list = h(
    "datalist",
    { id: "signal-names" },
    names.map((each) => h("option", { value: each })),
  );
  const inputs = {
    name: h("input", { name: "name", required: true, value: name, list: "signal-names", autocomplete: "off", spellcheck: "false", autofocus: !name }),
    data: h("textarea", { name: "data", rows: 5, spellcheck: "false", placeholder: '{"ok": true}', autofocus: Boolean(name) }),
    expire: h("input", { name: "expire", value: "10m", autocomplete: "off", size: 8 }),
  };
  return ask({
    title: "Send a signal",
    text: h("span", {}, "To ", h("code", {}, visible(id)), "."),
    fields: [
      list,
      field("Name", inputs.name),
      field("Data", inputs.data, "JSON; empty for a signal without data"),
      field("Expires after", inputs.expire, "if the workflow does not wait for it"),
    ],
    confirm: "Send signal",
    submit: async () => {
      checkJson(inputs.data.value);
      const { outcome } = await post("signal", { queue, id, name: inputs.name.value, data: inputs.data.value, expire: inputs.expire.value });
      return outcome;
    },
  });
}

export function askCancel({ queue, id }) {
  const reason = h("input", { name: "reason", autocomplete: "off", autofocus: true });
  return ask({
    title: "Cancel this workflow?",
    text: h("span", {}, h("code", {}, visible(id)), " gets a CancelledFailure at its next step. Its code may clean up first, or continue."),
    fields: [field("Reason", reason, "optional; shown in the failure")],
    confirm: "Cancel the workflow",
    danger: true,
    submit: async () => (await post("cancel", { queue, id, reason: reason.value })).outcome,
  });
}

export function askTerminate({ queue, id }) {
  const reason = h("input", { name: "reason", autocomplete: "off", autofocus: true });
  const descend = h("input", { type: "checkbox", name: "descend" });
  return ask({
    title: "Terminate this workflow?",
    text: h("span", {}, h("code", {}, visible(id)), " ends at once. None of its code runs any more, not even cleanup. This cannot be undone."),
    fields: [
      field("Reason", reason, "optional; shown in the failure"),
      h("label", { class: "check" }, descend, " Terminate its children and their children too"),
    ],
    confirm: "Terminate",
    danger: true,
    submit: async () => (await post("terminate", { queue, id, reason: reason.value, descend: descend.checked })).outcome,
  });
}
