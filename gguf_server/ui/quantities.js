// Quantities in words. Each gives a function of the language, for `say`; what is not known is a dash.

import { clock, compact, moment, number } from "./language.js";

export const UNKNOWN = "–";

export const count = (value) => () => (value == null ? UNKNOWN : number(value));

// Of large numbers the first digits: 20.4M.
export const roughly = (value) => () => {
  if (value == null) return UNKNOWN;
  return value < 100_000 ? number(value) : compact(value);
};

export const decimal = (value, digits = 1) => () => (value == null ? UNKNOWN : number(value, digits));

export const perSecond = (value) => (t) => (value == null ? UNKNOWN : t("unit.per_s", { n: decimal(value) }));

export function seconds(value) {
  return (t) => {
    if (value == null) return UNKNOWN;
    if (value < 1) return t("unit.ms", { n: count(1000 * value) });
    return t("unit.s", { n: decimal(value, value < 10 ? 2 : 1) });
  };
}

// A stretch of time in its two largest units.
export function duration(value) {
  return (t) => {
    if (value == null) return UNKNOWN;
    const s = Math.floor(value);
    if (s < 60) return t("unit.s", { n: count(s) });
    if (s < 3600) return t("unit.min_s", { min: count(Math.floor(s / 60)), s: count(s % 60) });
    if (s < 86400) return t("unit.h_min", { h: count(Math.floor(s / 3600)), min: count(Math.floor((s % 3600) / 60)) });
    return t("unit.d_h", { d: count(Math.floor(s / 86400)), h: count(Math.floor((s % 86400) / 3600)) });
  };
}

export const gibibytes = (value) => (t) =>
  value == null ? UNKNOWN : t("unit.gib", { n: decimal(value / 2 ** 30, value < 2 ** 30 ? 2 : 1) });

export const at = (date) => () => clock(date);

// Today's times without the date.
export const since = (date) => () =>
  date.toDateString() === new Date().toDateString() ? clock(date) : moment(date);
