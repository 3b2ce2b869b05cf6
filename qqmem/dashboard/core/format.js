/** Numbers and times as people read them. A value that is not known is an en dash. */

const NONE = "–";
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const LOCALES = { zh: "zh-CN", en: "en-GB" };

/** @param {{language: string}} t phrases of a language */
export function formats(t) {
  const locale = LOCALES[t.language];
  const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const minute = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hour12: false });
  const day = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });
  const year = new Intl.DateTimeFormat(locale, { year: "numeric", month: "short", day: "numeric" });
  const full = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
  const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
  const isKnown = (value) => value != null && value !== "" && !Number.isNaN(Number(value));
  return {
    clock: (at) => clock.format(new Date(at)),
    minute: (at) => minute.format(new Date(at)),
    full: (at) => (at ? full.format(new Date(at)) : NONE),
    day: (at) => year.format(new Date(at)),
    /** The time if it is today, otherwise the day, with the year if it is another. */
    short(at, now = Date.now()) {
      const [then, today] = [new Date(at), new Date(now)];
      if (then.toDateString() === today.toDateString()) return minute.format(then);
      return (then.getFullYear() === today.getFullYear() ? day : year).format(then);
    },
    /** "3 minutes ago", "in 2 days". */
    relative(at, now = Date.now()) {
      const past = new Date(at).getTime() - now;
      const size = Math.abs(past);
      if (size < MINUTE) return relative.format(Math.round(past / 1000), "second");
      if (size < 60 * MINUTE) return relative.format(Math.round(past / MINUTE), "minute");
      if (size < DAY) return relative.format(Math.round(past / (60 * MINUTE)), "hour");
      return relative.format(Math.round(past / DAY), "day");
    },
    number: (value, digits = 0) => (isKnown(value)
      ? Number(value).toLocaleString(locale, { maximumFractionDigits: digits, minimumFractionDigits: digits }) : NONE),
    /** A share of one, in percent. */
    share: (value, digits = 0) => (isKnown(value) ? `${(Number(value) * 100).toFixed(digits)}%` : NONE),
    seconds: (value) => (isKnown(value) ? seconds(Number(value)) : NONE),
    bytes: (value) => (isKnown(value) ? bytes(Number(value)) : NONE),
  };
}

function seconds(value) {
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 100) return `${value.toFixed(1)} s`;
  const [hours, minutes, rest] = [Math.floor(value / 3600), Math.floor(value / 60) % 60, Math.round(value % 60)];
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${rest} s`;
}

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${value.toFixed(at && value < 100 ? 1 : 0)} ${units[at]}`;
}
