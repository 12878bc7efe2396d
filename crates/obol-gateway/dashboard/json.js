// JSON without loss: stroops are 64-bit integers, and a JavaScript number holds 53 bits. Integers that do not fit are BigInt.

const MARK = '\u0001int:';
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d{16,}(?![\d.eE])/g;

/** Parses JSON; integers beyond 2^53 become BigInt, all others numbers. */
export function parse(text) {
  const marked = text.replace(TOKEN, token => token[0] === '"' || Number.isSafeInteger(Number(token)) ? token : `"\\u0001int:${token}"`);
  const read = (_, value) => (typeof value === 'string' && value.startsWith(MARK) && /^-?\d+$/.test(value.slice(MARK.length))
    ? BigInt(value.slice(MARK.length)) : value);
  return marked === text ? JSON.parse(text) : JSON.parse(marked, read);
}

/** Writes JSON; a BigInt becomes a plain integer. */
export function stringify(value) {
  return JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? MARK + v : v))
    .replace(/"\\u0001int:(-?\d+)"/g, '$1');
}
