// The conversation on two sides. It lives in this tab, and survives a reload.

import { colouredTokens, drawMap, element, legend, markRole, needle, signed } from "./drawing.js?token={{token}}";

const TOKEN = "{{token}}";
const KEPT = "keel-conversation";
const SIDES = ["uncapped", "capped"];
const at = (id) => document.getElementById(id);

let run = null; // what the server says of the run
let turns = []; // {user, uncapped, capped}: an answer, {failed: message}, or absent
let job = null; // {id} while an answer is awaited
let preset = null; // {index, next}: which preset, and its next message

// Requests

async function ask(path, options = {}) {
  const headers = { "x-keel-token": TOKEN };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("Keel does not answer. Is `keel ui` still running in its terminal?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let words = text;
  try { words = JSON.parse(text).error ?? text; } catch { /* it is words already */ }
  throw new Error(words);
}

async function* eventsOf(path, body) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body) });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isEnded = false;
  while (!isEnded) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new Error("The answer was cut off: Keel was closed, or the connection broke.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === "failed") throw new Error(event.message);
      isEnded = event.event === "done";
      yield event;
    }
  }
}

// What is shown

function show(text) { at("status").textContent = text; }

function complain(text) {
  at("problem").hidden = !text;
  at("problem").textContent = text ?? "";
}

function counted(count, noun) { return `${count} ${noun}${count === 1 ? "" : "s"}`; }

function chosenSides() {
  return document.querySelector("input[name=sides]:checked").value.split(",");
}

function chosenSetting() {
  const settings = run.settings.filter((each) => each.band === at("band").value);
  return settings[Number(at("percentile").value)] ?? settings[0] ?? null;
}

function drawTurns() {
  at("turns").replaceChildren(...turns.map(drawnTurn));
  at("empty").hidden = turns.length > 0;
  drawButtons();
}

function drawnTurn(turn) {
  const sides = SIDES.filter((side) => turn[side] || !turn.given);
  const drawn = element("div", { class: sides.length > 1 ? "sides" : "sides single" });
  for (const side of sides) drawn.append(drawnAnswer(turn, side));
  return element("li", {}, element("p", { class: "said" }, turn.user), drawn);
}

function drawnAnswer(turn, side) {
  const answer = turn[side];
  const title = turn.given ? "As loaded" : side === "capped" ? "Capped" : "Uncapped";
  const drawn = element("article", { "data-side": side }, element("h3", {}, title));
  if (!answer) {
    drawn.append(element("p", { class: "acted" }, "Not answered on this side, which leaves this message out."));
  } else if (answer.failed) {
    drawn.append(element("p", { class: "problem" }, answer.failed));
  } else {
    const text = element("p", { class: "answer" });
    if (answer.pieces?.length) text.append(...colouredTokens(answer.pieces));
    else text.textContent = answer.text;
    text.classList.toggle("writing", Boolean(answer.isWriting));
    drawn.append(text);
    if (!answer.isWriting) drawn.append(...drawnReading(answer, side));
  }
  return drawn;
}

function drawnReading(answer, side) {
  const drawn = [];
  if (answer.gaps === null || answer.gaps === undefined) {
    drawn.push(element("p", { class: "reading" }, "No token to measure."));
  } else {
    const below = answer.is_below_floor ? ", below the floor" : "";
    const expected = answer.expected_gaps == null ? ""
      : `, the default at this turn ${signed(answer.expected_gaps)}`;
    drawn.push(needle(answer.gaps, answer.floor_gaps),
      element("p", { class: "reading" }, `${signed(answer.gaps)} gaps${expected}${below}`));
  }
  drawn.push(element("p", { class: "acted" }, wordsOn(answer, side)));
  return drawn;
}

// What did act, as counted inside the model; never what was only wished for.
function wordsOn(answer, side) {
  const parts = [];
  if (answer.acted) {
    const { setting, fired, slots } = answer.acted;
    const share = slots ? (100 * fired) / slots : 0;
    parts.push(`Capped by ${setting}: ${fired.toLocaleString("en")} of ${slots.toLocaleString("en")} `
      + `slots (token × layer) raised, ${share.toFixed(1)} %`);
  } else {
    parts.push(answer.finish === "given" ? "Read as it was given" : "No cap acted");
  }
  if (answer.step) parts.push(`pushed by ${signed(answer.step)} residual norms`);
  if (answer.finish === "length") parts.push("cut at the longest answer allowed");
  if (answer.finish === "stopped") parts.push("stopped; what was written was measured by reading it again");
  return parts.join("; ") + ".";
}

function drawButtons() {
  const isBusy = job !== null;
  for (const id of ["send", "load", "undo", "again", "clear", "save", "preset", "conversation"])
    at(id).disabled = isBusy;
  at("stop").disabled = !isBusy;
  for (const id of ["undo", "again", "clear", "save"]) at(id).disabled ||= turns.length === 0;
  at("again").disabled ||= Boolean(turns.at(-1)?.given);
}

function drawSetting() {
  const settings = run.settings.filter((each) => each.band === at("band").value);
  const slider = at("percentile");
  slider.max = Math.max(settings.length - 1, 0);
  slider.disabled = settings.length < 2;
  const setting = chosenSetting();
  const percentile = setting?.percentile;
  const words = percentile === null || percentile === undefined ? "as named" : `${percentile}`;
  at("percentile-shown").textContent = setting ? words : "none";
  slider.setAttribute("aria-valuetext", words);
  const strength = Number(at("strength").value);
  at("strength-shown").textContent = strength ? `${signed(strength)}` : "none";
}

// Answers

function pastTurns() {
  return turns.map((turn) => {
    const past = { user: turn.user };
    for (const side of SIDES) {
      const answer = turn.given ? turn.uncapped : turn[side];
      if (answer && !answer.failed) past[side] = answer.text;
    }
    return past;
  });
}

async function send(message, seed) {
  const sides = chosenSides();
  const body = {
    message, sides, turns: pastTurns(), system: at("system").value,
    setting: chosenSetting()?.name ?? null, strength: Number(at("strength").value),
    max_new_tokens: Number(at("tokens").value), temperature: Number(at("temperature").value), seed,
  };
  const turn = { user: message, seed };
  turns.push(turn);
  job = {};
  complain(null);
  at("message").value = "";
  drawTurns();
  let side = null;
  let isDone = false;
  try {
    for await (const event of eventsOf("answer", body)) {
      if (event.event === "waiting") {
        job.id = event.job;
        if (job.isStopped) await askToStop();
        show(event.ahead ? `Waiting: ${event.ahead} before this one.` : "Reading the message …");
      } else if (event.event === "begun") {
        side = event.side;
        turn[side] = { text: "", isWriting: true };
        show(`The ${side} answer is being written …`);
        drawTurns();
      } else if (event.event === "text") {
        turn[event.side].text += event.text;
        written(event.side).append(event.text);
      } else if (event.event === "answered") {
        turn[event.side] = event.answer;
        drawTurns();
      }
    }
    isDone = true;
    show(job.isStopped ? "Stopped." : summary(turn));
  } catch (error) {
    // What was written before a failure may not have been steered as asked: it is not kept.
    if (side && turn[side]?.isWriting) turn[side] = { failed: error.message };
    complain(error.message);
    show("");
  }
  for (const each of SIDES) if (turn[each]?.isWriting) delete turn[each];
  if (!SIDES.some((each) => turn[each])) turns.pop();
  if (!isDone || !turns.includes(turn)) at("message").value ||= message;
  else offerNext();
  job = null;
  drawTurns();
  keep();
}

function written(side) {
  return at("turns").lastElementChild.querySelector(`[data-side=${side}] .answer`);
}

function summary(turn) {
  const parts = SIDES.filter((side) => turn[side]?.gaps != null)
    .map((side) => `${side} ${signed(turn[side].gaps)} gaps`);
  return parts.length ? `Answered: ${parts.join(", ")}.` : "Answered.";
}

async function askToStop() {
  if (job) job.isStopped = true;
  if (job?.id) await ask(`stop?job=${job.id}`, { method: "POST" });
}

// Conversations from files and to them

async function load(file) {
  complain(null);
  show(`Reading ${file.name} …`);
  const answer = await ask(`load?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  const { conversations, notes } = await answer.json();
  const choice = at("conversation");
  choice.replaceChildren(...conversations.map((each, index) =>
    element("option", { value: index }, each.id || `conversation ${index + 1}`)));
  choice.onchange = () => attempt(() => take(conversations[Number(choice.value)]));
  at("choice").hidden = conversations.length < 2;
  if (notes.length) complain(`Not everything was read. ${notes.join("; ")}.`);
  await take(conversations[0]);
}

async function take(conversation) {
  at("system").value = conversation.system;
  turns = [];
  let open = null;
  for (const [speaker, text] of conversation.messages) {
    if (speaker === "user") open = open === null ? text : `${open}\n\n${text}`;
    else {
      const answer = { text, finish: "given", gaps: null, floor_gaps: null };
      turns.push({ user: open ?? "", given: true, uncapped: answer });
      open = null;
    }
  }
  at("message").value = open ?? "";
  preset = null;
  drawTurns();
  keep();
  if (turns.length) await measure(conversation);
  else show("Loaded. Nothing in it was answered yet.");
}

async function measure(conversation) {
  job = {};
  drawButtons();
  try {
    const { system, messages } = conversation;
    const body = { system, messages, setting: chosenSetting()?.name ?? null };
    for await (const event of eventsOf("read", body)) {
      if (event.event === "waiting") {
        job.id = event.job;
        show(event.ahead ? `Waiting: ${event.ahead} before this one.` : "Measuring its answers …");
      } else if (event.event === "answered") turns[event.turn].uncapped = event.answer;
    }
    show(`Loaded and measured: ${counted(turns.length, "answer")}. What you send now is answered on both sides.`);
  } finally {
    job = null;
    drawTurns();
    keep();
  }
}

function save() {
  const system = at("system").value.trim();
  const conversations = SIDES.map((side) => {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const turn of pastTurns()) {
      if (turn[side] === undefined) continue;
      messages.push({ role: "user", content: turn.user }, { role: "assistant", content: turn[side] });
    }
    return { conversation_id: side, messages };
  }).filter(({ messages }) => messages.some(({ role }) => role === "assistant"));
  const lines = conversations.map((each) => JSON.stringify(each) + "\n");
  const blob = new Blob(lines, { type: "application/jsonl" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "conversation.jsonl" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  show(`Saved ${counted(conversations.length, "conversation")}, which keel drift reads.`);
}

// Presets and roles

function offerNext() {
  const chosen = preset && run.presets[preset.index];
  if (!chosen || preset.next >= chosen.turns.length) return;
  at("message").value = chosen.turns[preset.next];
  preset.next += 1;
  at("message").focus();
}

function startOver() {
  turns = [];
  complain(null);
  at("choice").hidden = true;
  at("message").value = "";
  show("");
}

function choosePreset() {
  startOver();
  const index = at("preset").value;
  preset = index === "" ? null : { index: Number(index), next: 0 };
  at("system").value = preset ? run.presets[preset.index].system : run.system;
  chooseRole(null);
  offerNext();
  drawTurns();
  keep();
}

function chooseRole(name) {
  at("role").value = name ?? "";
  markRole(at("map"), name);
  const role = run.roles.find((each) => each.name === name);
  if (!role) return;
  at("system").value = role.system;
  show(`Answers as ${role.name} from now on. Start over, or the conversation goes on as it was.`);
  keep();
}

// This tab's memory

const REMEMBERED = ["system", "message", "band", "percentile", "strength", "tokens", "temperature", "preset", "role"];

function keep() {
  const fields = Object.fromEntries(REMEMBERED.map((id) => [id, at(id).value]));
  const whole = turns.filter((turn) => !SIDES.some((side) => turn[side]?.isWriting));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ run: run.run, turns: whole, fields, preset, sides: chosenSides() }));
  } catch { /* a full or forbidden memory costs the reload, nothing else */ }
}

function recall() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  if (!kept || kept.run !== run.run) return;
  ({ turns, preset } = kept);
  for (const id of REMEMBERED) {
    if (id === "percentile") drawSetting();
    at(id).value = kept.fields[id] ?? at(id).value;
  }
  const sides = document.querySelector(`input[name=sides][value="${kept.sides}"]`);
  if (sides && !sides.disabled) sides.checked = true;
  markRole(at("map"), at("role").value);
}

// A second answer is not begun while one is awaited; a message under way goes back to its field.
function keepMessageUnderWay() {
  const turn = turns.at(-1);
  if (job && turn && !at("message").value) at("message").value = turn.user;
  if (job && turn && !turn.given) turns = turns.slice(0, -1);
  if (run) keep();
}

async function attempt(action) {
  try { await action(); } catch (error) { complain(error.message); show(""); }
}

// Start

function fill() {
  document.title = `${run.model}, uncapped and capped`;
  at("about").textContent = `${run.model}, measured at layer ${run.layer}. Run ${run.run}.`;
  at("preset").append(...run.presets.map((each, index) => element("option", { value: index }, each.title)));
  const names = run.roles.map((role) => role.name).filter((name) => name !== "default").sort();
  at("role").append(element("option", { value: "" }, "what the system prompt says"),
    ...(run.roles.length ? [element("option", { value: "default" }, "default (no system prompt)")] : []),
    ...names.map((name) => element("option", { value: name }, name)));
  at("map-box").hidden = run.roles.length === 0;
  at("map-box").open = window.innerWidth > 900;
  if (run.roles.length) drawMap(at("map"), run.roles, chooseRole);
  const bands = [...new Set(run.settings.map((each) => each.band))];
  at("band").append(...bands.map((band) => element("option", { value: band }, band)));
  run.settings.sort((a, b) => (a.percentile ?? 0) - (b.percentile ?? 0));
  const begin = run.settings.find((each) => each.name === run.setting);
  if (begin) {
    at("band").value = begin.band;
    drawSetting();
    at("percentile").value = run.settings.filter((each) => each.band === begin.band).indexOf(begin);
  }
  at("no-floors").hidden = !run.no_floors;
  at("no-floors").textContent = run.no_floors ?? "";
  for (const id of ["band", "percentile"]) at(id).disabled = Boolean(run.no_floors);
  at("strength").disabled = !run.knows_norm;
  if (run.no_floors) {
    for (const input of document.querySelectorAll("input[name=sides]"))
      input.disabled = input.value !== "uncapped", input.checked = input.value === "uncapped";
  }
  at("system").value = run.system;
  at("tokens").value = run.max_new_tokens;
  at("temperature").value = run.temperature;
  at("legend").append(...legend());
}

function listen() {
  at("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    const message = at("message").value.trim();
    if (!job && message) send(message, run.seed + turns.length);
  });
  at("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("compose").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && job) attempt(askToStop);
  });
  at("stop").addEventListener("click", () => attempt(askToStop));
  at("load").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) attempt(() => load(file));
  });
  at("save").addEventListener("click", save);
  at("undo").addEventListener("click", () => {
    const turn = turns.pop();
    at("message").value = turn.user;
    drawTurns();
    keep();
    at("message").focus();
  });
  at("again").addEventListener("click", () => {
    const turn = turns.pop();
    send(turn.user, (turn.seed ?? run.seed) + 1000);
  });
  at("clear").addEventListener("click", () => {
    startOver();
    if (preset) preset.next = 0;
    offerNext();
    drawTurns();
    keep();
    at("message").focus();
  });
  at("preset").addEventListener("change", choosePreset);
  at("role").addEventListener("change", () => chooseRole(at("role").value || null));
  for (const id of ["band", "percentile", "strength"])
    at(id).addEventListener("input", () => { drawSetting(); keep(); });
  at("coloured").addEventListener("change", () =>
    document.body.classList.toggle("coloured", at("coloured").checked));
  window.addEventListener("pagehide", keepMessageUnderWay);
}

attempt(async () => {
  run = await (await ask("run")).json();
  fill();
  document.body.classList.add("coloured");
  recall();
  drawSetting();
  drawTurns();
  listen();
});
