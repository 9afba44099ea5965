// What went wrong, in plain words, and what can be done about it.

const WORDS = {
  unreachable: () => "The server does not answer. Is it still running? Change the labels to try again.",
  unauthorized: (detail) =>
    detail.includes("not known")
      ? "This server does not know that access token."
      : "This server wants an access token. Ask whoever runs it for one.",
  overloaded: () => "The server is busy at the moment. Change the labels to try again.",
  unavailable: () => "The server is not ready yet. Change the labels to try again.",
  deadline_exceeded: () => "That took the server too long. A smaller picture or fewer labels will help.",
  image_too_large: (detail) => `This picture is too large: ${detail}.`,
  body_too_large: (detail) => `That is too much at once: ${detail}.`,
  unsupported_format: (detail) => `This kind of picture is not taken: ${detail}.`,
  invalid_image: (detail) => `This picture cannot be read: ${detail}.`,
  invalid_labels: (detail) => `These labels cannot be used: ${detail}.`,
  invalid_parameter: (detail) => `The server refused that: ${detail}.`,
  model_not_found: () => "This model is no longer served. Reload the page to see which ones are.",
  storage_full: (detail) => `The server has no room for this picture: ${detail}.`,
  internal: () => "The server made a mistake. Its log says more.",
  not_a_picture: (detail) => `${detail} is not a picture that this browser can open.`,
};

/** One sentence for people. */
export function inWords(problem) {
  const words = WORDS[problem.code];
  if (words) return words(problem.detail);
  return `That did not work: ${problem.detail || problem.message || problem}.`;
}
