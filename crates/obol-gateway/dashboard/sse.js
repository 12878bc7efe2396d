// Server-sent events out of a byte stream (WHATWG HTML, 9.2.6), and when to connect again. Pure.

/** Takes text in pieces, gives back the events that are complete. */
export class EventParser {
  constructor() {
    this.rest = '';
    this.lastId = '';
    this.first = true;
    this.clear();
  }

  clear() {
    this.data = [];
    this.name = '';
  }

  feed(text) {
    if (this.first && text.length > 0) {
      this.first = false;
      if (text[0] === '\ufeff') text = text.slice(1);
    }
    this.rest += text;
    const out = [];
    for (;;) {
      const end = this.rest.search(/[\r\n]/);
      // A "\r" at the very end may be the first half of "\r\n".
      if (end < 0 || (this.rest[end] === '\r' && end === this.rest.length - 1)) return out;
      const line = this.rest.slice(0, end);
      this.rest = this.rest.slice(end + (this.rest.startsWith('\r\n', end) ? 2 : 1));
      const event = this.line(line);
      if (event) out.push(event);
    }
  }

  line(line) {
    if (line === '') {
      const event = this.data.length > 0 ? { name: this.name || 'message', data: this.data.join('\n'), id: this.lastId } : null;
      this.clear();
      return event;
    }
    if (line.startsWith(':')) return null;
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') this.data.push(value);
    else if (field === 'event') this.name = value;
    else if (field === 'id' && !value.includes('\0')) this.lastId = value;
    return null;
  }
}

/** Seconds until the next try: 1, 2, 4 ... 30, less up to a quarter at random. */
export function backOff(tries, random = Math.random()) {
  return Math.min(30, 2 ** Math.min(tries, 10)) * (1 - random / 4);
}
