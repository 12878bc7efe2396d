// What people read: amounts, bytes, times, names. Pure.

export const STROOPS_PER_UNIT = 10_000_000n;
const NARROW = '\u202f';

/** An integer with its thousands set apart. */
export function integer(value) {
  const text = BigInt(value).toString();
  const sign = text.startsWith('-') ? '−' : '';
  return sign + text.replace('-', '').replace(/\B(?=(\d{3})+$)/g, ',');
}

/** Stroops as units of the asset: exact, seven decimals at most, no trailing zeros. */
export function units(stroops) {
  const value = BigInt(stroops);
  const positive = value < 0n ? -value : value;
  const whole = integer(positive / STROOPS_PER_UNIT);
  const rest = (positive % STROOPS_PER_UNIT).toString().padStart(7, '0').replace(/0+$/, '');
  return (value < 0n ? '−' : '') + whole + (rest ? `.${rest}` : '');
}

/** The same with the asset's code, or a dash where nothing is known. */
export function amount(stroops, code) {
  if (stroops === null || stroops === undefined) return '–';
  return code ? `${units(stroops)}\u00a0${code}` : units(stroops);
}

/** Stroops as the decimal text of an input field: no thousands set apart, a plain minus sign. */
export function plainUnits(stroops) {
  return stroops === null || stroops === undefined ? '' : units(stroops).replace(/,/g, '').replace('−', '-');
}

/** Reads "12.5" as stroops. Throws with a sentence for people. */
export function parseUnits(text) {
  const match = /^(\d{1,12})(?:\.(\d*))?$|^\.(\d+)$/.exec(text.trim());
  if (!match) throw new RangeError('Write an amount like 12.5.');
  const decimals = match[2] ?? match[3] ?? '';
  if (decimals.length > 7) throw new RangeError('An amount has seven decimals at most.');
  const stroops = BigInt(match[1] ?? '0') * STROOPS_PER_UNIT + BigInt(decimals.padEnd(7, '0') || '0');
  if (stroops > 9_223_372_036_854_775_807n) throw new RangeError('This is more than a ledger can hold.');
  return stroops;
}

/** Reads a whole number. Throws with a sentence for people. */
export function parseInteger(text) {
  if (!/^\d{1,18}$/.test(text.trim())) throw new RangeError('Write a whole number.');
  const value = BigInt(text.trim());
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** Bytes in binary units, three digits. */
export function bytes(value) {
  if (value === null || value === undefined) return '–';
  let number = Number(value);
  let unit = 0;
  while (Math.abs(number) >= 1024 && unit < BYTE_UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  // 1023.96 KiB would round to 1024 KiB.
  if (unit > 0 && Math.abs(number) >= 1023.5 && unit < BYTE_UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return `${number.toFixed(digits)}\u00a0${BYTE_UNITS[unit]}`;
}

/** The bytes themselves, for a title. */
export const exactBytes = value => (value === null || value === undefined ? '' : `${integer(value)} bytes`);

/** A span of time in seconds, in its two largest units. */
export function span(seconds) {
  const s = Math.max(0, Math.round(Number(seconds)));
  const parts = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  let rest = s;
  const out = [];
  for (const [name, size] of parts) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n > 0 || out.length > 0) out.push(n > 0 ? `${n}${NARROW}${name}` : '');
    if (out.length === 2) break;
  }
  return out.filter(Boolean).join(' ') || `0${NARROW}s`;
}

/** "in 3 h", "5 min ago", "now". */
export function relative(at, now) {
  const d = Number(at) - Number(now);
  if (Math.abs(d) < 1) return 'now';
  return d > 0 ? `in ${span(d)}` : `${span(-d)} ago`;
}

const two = n => String(n).padStart(2, '0');

/** Local date and time. */
export function localTime(unix, seconds = false) {
  const t = new Date(Number(unix) * 1000);
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${clock(unix, seconds)}`;
}

/** Local time of day. */
export function clock(unix, seconds = false) {
  const t = new Date(Number(unix) * 1000);
  return `${two(t.getHours())}:${two(t.getMinutes())}${seconds ? `:${two(t.getSeconds())}` : ''}`;
}

/** Local day of the month and month, as axes show it. */
export function day(unix) {
  const t = new Date(Number(unix) * 1000);
  return `${two(t.getMonth() + 1)}-${two(t.getDate())}`;
}

/** UTC, for titles. */
export const utc = unix => `${new Date(Number(unix) * 1000).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

/** Local time for today, else date and time. */
export function when(unix, now) {
  return localTime(unix).slice(0, 10) === localTime(now).slice(0, 10) ? clock(unix, true) : localTime(unix);
}

/** Long keys, fingerprints, hashes: both ends. */
export function short(text, head = 6, tail = 4) {
  return !text ? '–' : text.length <= head + tail + 1 ? text : `${text.slice(0, head)}…${text.slice(text.length - tail)}`;
}

/** used / of as a number; exact integers may be beyond 2^53. 0 of 0 is 0. */
export function ratio(used, of) {
  const [u, o] = [BigInt(used ?? 0), BigInt(of ?? 0)];
  if (o <= 0n) return u > 0n ? 1 : 0;
  return Number((u * 1_000_000n) / o) / 1_000_000;
}

export function percent(fraction) {
  const p = fraction * 100;
  return `${p > 0 && p < 0.1 ? '< 0.1' : p >= 10 || p === 0 ? Math.round(p) : p.toFixed(1)}\u00a0%`;
}

/** The price of a GiB out of that of 64 KiB. */
export const perGib = per64 => BigInt(per64) * 16384n;

/** Adds integers that may be BigInt, null as 0. */
export function sum(values) {
  return values.reduce((all, v) => all + BigInt(v ?? 0), 0n);
}

/** "1 escrow", "3 escrows". */
export const count = (n, one, many = `${one}s`) => `${integer(n)} ${Number(n) === 1 ? one : many}`;
