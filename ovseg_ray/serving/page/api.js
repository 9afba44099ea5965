// The endpoint's API. Addresses are relative, so the page works below any prefix.

const RETRIES = 4;
const TOKEN_KEY = "ovseg-ray.token";

/** What the server refused, or that it could not be reached: `code` is stable, `detail` is for people. */
export class Problem extends Error {
  constructor(code, detail, status = 0) {
    super(detail);
    this.code = code;
    this.detail = detail;
    this.status = status;
  }
}

/** Calls of the API; waits and asks again where the server is busy or a request got lost. */
export class Api {
  /** @param {(seconds: number) => void} onBusy called before each wait */
  constructor(onBusy = () => {}) {
    this.onBusy = onBusy;
    this.token = readToken();
  }

  useToken(token) {
    this.token = token;
    try {
      sessionStorage.setItem(TOKEN_KEY, token);
    } catch { /* then it lasts as long as the page */ }
  }

  models() {
    return this.json("v1/models").then((answer) => answer.models);
  }

  vocabularies() {
    return this.json("v1/vocabularies").then((answer) => answer.vocabularies);
  }

  vocabulary(id) {
    return this.json(`v1/vocabularies/${encodeURIComponent(id)}`);
  }

  /** Send a picture once; its id stands for it from then on. */
  upload(blob, model) {
    const form = new FormData();
    form.append("image", blob, "picture");
    if (model) form.append("model", model);
    return this.json("v1/images", { method: "POST", body: form });
  }

  /** The server forgets it by itself; this is a courtesy. */
  forget(id) {
    return this.call(`v1/images/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => {});
  }

  /** Ask an uploaded picture for labels: only text is sent. */
  segment(id, model, labels) {
    const parameters = { model, candidate_labels: labels, return: ["label_map", "confidence"] };
    return this.json("v1/segment", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ image_id: id, parameters }),
    });
  }

  async json(path, options) {
    return (await this.call(path, options)).json();
  }

  async call(path, options = {}) {
    for (let attempt = 0; ; attempt++) {
      const headers = { accept: "application/json", ...options.headers };
      if (this.token) headers.authorization = `Bearer ${this.token}`;
      let response;
      try {
        response = await fetch(path, { ...options, headers });
      } catch {
        // a replica that ended may have taken the connection with it: once more, on a new one
        if (attempt > 0) throw new Problem("unreachable", "the server does not answer");
        continue;
      }
      if (response.ok) return response;
      const problem = await problemOf(response);
      const busy = response.status === 429 || response.status === 503;
      // a proxy whose replica died answers in the endpoint's place
      const lost = (response.status === 500 || response.status === 502) && problem.code === "unexpected";
      if (!(busy || lost) || attempt === RETRIES) throw problem;
      const seconds = Number(response.headers.get("retry-after")) || 2 ** attempt;
      this.onBusy(seconds);
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 30)));
    }
  }
}

async function problemOf(response) {
  try {
    const body = await response.json();
    if (body.code) return new Problem(body.code, body.detail ?? body.title ?? "", response.status);
  } catch { /* a proxy's own page, for example */ }
  return new Problem("unexpected", `the server answered with status ${response.status}`, response.status);
}

function readToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return "";
  }
}
