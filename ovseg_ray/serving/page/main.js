// The page: a picture, words, and what the models make of them.

import { readAnswer } from "./answer.js";
import { Api } from "./api.js";
import { Asking } from "./asking.js";
import { parse, reconcile, unparse } from "./labels.js";
import { Legend } from "./legend.js";
import { inWords } from "./messages.js";
import { Pane } from "./pane.js";
import { fileOf, readPicture } from "./picture.js";

const TYPING_MS = 90; // a pause in typing, after which the server is asked
const MOST_SUGGESTED = 60;
const SUGGESTED = ["sky", "ground", "something else"];
const find = (id) => document.getElementById(id);

const state = {
  models: [],
  panes: [], // one for each chosen model
  labels: [],
  picture: null, // {url, width, height, name, blob, id}
  view: { floor: 0, highlight: null },
};
const api = new Api((seconds) => say(`The server is busy; asking again in ${seconds} s.`));
const legend = new Legend(find("legend"), {
  onChange: () => draw(),
  onRemove: (label) => setText(unparse(state.labels.filter((other) => other !== label).map((other) => other.names))),
  onPoint: (label) => {
    state.view.highlight = label;
    for (const pane of state.panes) pane.redraw(state.view);
  },
});

// ---- messages

function say(text, kind = "") {
  const message = find("message");
  message.hidden = !text;
  message.className = `message ${kind}`;
  if (message.textContent !== text) message.textContent = text;
}

function fail(error) {
  if (!error.code) console.error(error); // a mistake of this page
  find("access").hidden = error.code !== "unauthorized";
  say(inWords(error), "error");
}

// ---- asking

function makePane(model) {
  const pane = new Pane(model.key, model.title, (at, spoken) => {
    const words = state.panes.map((other) => other.probe(at));
    if (spoken) find("spoken").textContent = words.filter(Boolean).join("; ");
  });
  pane.asking = new Asking(
    (question) => askOnce(pane, question),
    (answer, { labels }) => {
      pane.setAnswer(answer, labels);
      say("");
      draw();
    },
    (error) => (error.code === "model_not_found" ? renew(pane, error) : fail(error)),
  );
  if (state.picture) pane.setPicture(state.picture);
  return pane;
}

async function askOnce(pane, { picture, labels }) {
  await uploaded(picture, pane.model);
  const names = labels.map((label) => (label.names.length > 1 ? label.names : label.names[0]));
  try {
    return await readAnswer(await api.segment(picture.id, pane.model, names));
  } catch (error) {
    if (error.code !== "image_not_found") throw error;
    picture.upload = null; // the server has forgotten it
    await uploaded(picture, pane.model);
    return readAnswer(await api.segment(picture.id, pane.model, names));
  }
}

/** Sends the picture unless that was done already; several panes wait for the same sending. */
async function uploaded(picture, model) {
  picture.upload ??= api.upload(picture.blob, model);
  try {
    picture.id = (await picture.upload).id;
  } catch (error) {
    picture.upload = null;
    throw error;
  }
}

function ask() {
  state.labels = reconcile(state.labels, parse(find("labels").value));
  if (state.labels.length === 0) {
    for (const pane of state.panes) {
      pane.asking.drop();
      pane.clear();
    }
    say(state.picture ? "Type a label to see where it is." : "");
  } else if (state.picture) {
    for (const pane of state.panes) pane.asking.want({ picture: state.picture, labels: state.labels });
  }
  legend.show(state.labels, state.panes);
}

function draw() {
  for (const pane of state.panes) pane.redraw(state.view);
  legend.show(state.labels, state.panes);
}

function setText(text) {
  find("labels").value = text;
  ask();
}

// ---- pictures

let chosen = 0; // pictures so far: one that takes long to read must not replace one that was chosen after it

async function usePicture(file, name, labels) {
  const turn = ++chosen;
  let read;
  try {
    read = await readPicture(file);
  } catch (error) {
    if (turn === chosen) fail(error);
    return;
  }
  if (turn !== chosen) return;
  const before = state.picture;
  if (before) {
    URL.revokeObjectURL(before.url);
    if (before.id) api.forget(before.id);
  }
  state.picture = { ...read, name, url: URL.createObjectURL(read.blob), id: null, upload: null };
  find("empty").hidden = true;
  find("panes").hidden = false;
  find("access").hidden = true;
  say(read.reduced ? `The picture is large; it was reduced to ${read.width} × ${read.height}.` : "");
  for (const pane of state.panes) {
    pane.asking.drop();
    pane.setPicture(state.picture);
  }
  const field = find("labels");
  if (labels && (!field.value.trim() || field.dataset.suggested === field.value)) {
    field.value = field.dataset.suggested = unparse(labels); // what people typed themselves stays
  } else if (!field.value.trim()) {
    const trained = state.models[0]?.labels ?? [];
    const known = trained.length > 0 && trained.length <= MOST_SUGGESTED; // words that any model understands
    field.value = field.dataset.suggested = unparse(known ? trained : SUGGESTED);
  }
  ask();
}

async function offerSamples() {
  const samples = await api.json("samples");
  for (const { url, caption, labels } of samples.samples) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = caption;
    const image = document.createElement("img");
    Object.assign(image, { src: url, alt: caption, width: 56, height: 56 });
    button.append(image);
    button.addEventListener("click", async () => {
      try {
        await usePicture(await (await api.call(url)).blob(), caption, labels);
      } catch (error) {
        fail(error);
      }
    });
    find("samples").append(button);
  }
}

function listenForPictures() {
  const file = find("file");
  find("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files[0]) usePicture(file.files[0], file.files[0].name);
    file.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    const pasted = fileOf(event.clipboardData);
    if (!pasted) return; // text goes where it was pasted
    event.preventDefault();
    usePicture(pasted, "pasted picture");
  });
  const hint = find("dropping");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    hint.hidden = ![...event.dataTransfer.types].includes("Files");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) hint.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    hint.hidden = true;
    const dropped = fileOf(event.dataTransfer);
    if (dropped) usePicture(dropped, dropped.name);
  });
}

// ---- models and lists

function choose(models) {
  const kept = new Map(state.panes.map((pane) => [pane.model, pane]));
  for (const pane of state.panes) {
    if (!models.some((model) => model.key === pane.model)) pane.asking.drop();
  }
  state.panes = models.map((model) => kept.get(model.key) ?? makePane(model));
  find("panes").replaceChildren(...state.panes.map((pane) => pane.element));
  ask();
  draw();
}

/** The server has turned to other versions since it was asked for its models: the same names, asked again. */
async function renew(pane, error) {
  try {
    const described = await api.models();
    if (!state.panes.includes(pane)) return; // another pane was quicker
    if (described.some((model) => keyOf(model) === pane.model)) throw error;
    offerModels(described);
    offerLists(await api.vocabularies());
  } catch (other) {
    fail(other);
  }
}

const keyOf = (model) => `${model.name}@${model.version}`;

function offerModels(described) {
  const twice = (name) => described.filter((model) => model.name === name).length > 1;
  state.models = described.map((model) => ({
    key: keyOf(model),
    name: model.name,
    title: twice(model.name) ? `${model.name} ${model.version}` : model.name,
    labels: model.labels,
  }));
  const same = ({ model: key }) => state.models.find((model) => model.key === key)
    ?? state.models.find((model) => model.name === key.split("@")[0]);
  const kept = new Set(state.panes.map(same).filter(Boolean));
  const chosen = state.models.filter((model, index) => (kept.size ? kept.has(model) : index === 0));
  const box = find("models");
  box.replaceChildren(box.querySelector("legend"));
  for (const model of state.models) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.checked = chosen.includes(model);
    input.addEventListener("change", () => {
      const inputs = [...box.querySelectorAll("input")];
      if (!inputs.some((other) => other.checked)) input.checked = true; // at least one
      choose(state.models.filter((_, i) => inputs[i].checked));
    });
    label.append(input, model.title);
    box.append(label);
  }
  box.hidden = state.models.length < 2;
  choose(chosen);
}

function offerLists(vocabularies) {
  const lists = find("lists");
  lists.length = 1;
  const add = (text, load) => {
    const option = document.createElement("option");
    option.textContent = text;
    option.load = load;
    lists.append(option);
  };
  for (const model of state.models) {
    if (model.labels.length) add(`what ${model.title} was trained on (${model.labels.length})`, () => model.labels);
  }
  for (const { id, labels } of vocabularies) {
    add(`${id} (${labels})`, async () => (await api.vocabulary(id)).labels);
  }
  lists.onchange = async () => {
    const { load } = lists.selectedOptions[0];
    lists.selectedIndex = 0;
    try {
      setText(unparse(await load()));
    } catch (error) {
      fail(error);
    }
  };
}

// ---- start

async function connect() {
  try {
    offerModels(await api.models());
    find("access").hidden = true;
    say("");
    offerLists(await api.vocabularies());
  } catch (error) {
    fail(error);
  }
}

function listen() {
  let timer;
  const labels = find("labels");
  labels.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, TYPING_MS);
  });
  const slider = (id, use) => {
    const input = find(id);
    const show = () => {
      find(`${id}-shown`).textContent = `${input.value} %`;
      use(Number(input.value) / 100);
    };
    input.addEventListener("input", show);
    show();
  };
  slider("opacity", (value) => find("panes").style.setProperty("--opacity", String(value)));
  slider("floor", (value) => {
    state.view.floor = value;
    draw();
  });
  find("access").addEventListener("submit", (event) => {
    event.preventDefault();
    api.useToken(find("token").value.trim());
    connect();
  });
}

listen();
listenForPictures();
connect();
offerSamples().catch(() => find("samples").remove()); // the page works without them
