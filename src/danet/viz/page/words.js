// Every text of the page, in English and in Chinese.

const ENGLISH = {
  looks_at: "looks at",
};

const CHINESE = {
  looks_at: "看向",
};

/** "zh" for browsers in Chinese, "en" for all others. */
export const language = globalThis.navigator?.language?.startsWith("zh") ? "zh" : "en";

/** The text of a key in the browser's language, with `values` in place of its {names}. */
export function say(key, values = {}) {
  return (language === "zh" ? CHINESE : ENGLISH)[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A whole number with its thousands marked. */
export function whole(value) {
  return Math.round(value).toLocaleString(language);
}

/** 61 %, and "< 1 %" where rounding would deny that there is something. */
export function percent(share) {
  return share > 0 && share < 0.005 ? "< 1\u202f%" : `${Math.round(100 * share)}\u202f%`;
}

/** Two figures of a multiple of the average: 0.03 ×, 1.2 ×, 64 ×. */
export function times(value) {
  const told = value && value < 0.01 ? "< 0.01" : value.toLocaleString(language, { maximumSignificantDigits: 2 });
  return `${told}\u202f×`;
}
