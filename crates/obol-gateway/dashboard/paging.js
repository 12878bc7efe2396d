// Lists that come in pages. Pure but for the function that fetches.

/** "?a=1&b=2" out of what is neither null nor empty. */
export function query(params) {
  const parts = Object.entries(params).filter(([, v]) => v !== null && v !== undefined && v !== '');
  return parts.length === 0 ? '' : `?${parts.map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(v)}`).join('&')}`;
}

/** Pages forward and back through cursors that only point forward. */
export class Pager {
  constructor(fetchPage, limit = 50) {
    this.fetchPage = fetchPage;
    this.limit = limit;
    this.reset();
  }

  reset() {
    this.cursors = [null];
    this.next = null;
    this.records = [];
  }

  get page() {
    return this.cursors.length;
  }

  get hasNext() {
    return this.next !== null;
  }

  get hasPrevious() {
    return this.cursors.length > 1;
  }

  async load() {
    const page = await this.fetchPage({ limit: this.limit, cursor: this.cursors.at(-1) });
    this.records = page.records;
    this.next = page.next ?? null;
    return this.records;
  }

  async forward() {
    if (this.next === null) return this.records;
    this.cursors.push(this.next);
    return this.step(() => this.cursors.pop());
  }

  async back() {
    if (this.cursors.length === 1) return this.records;
    const left = this.cursors.pop();
    return this.step(() => this.cursors.push(left));
  }

  async step(undo) {
    try {
      return await this.load();
    } catch (error) {
      undo();
      throw error;
    }
  }
}

/** Puts a record at the front of a list, or in the place of the one with the same key; the list stays as long as it may. */
export function upsert(records, record, key, most = Infinity) {
  const at = records.findIndex(r => r[key] === record[key]);
  if (at >= 0) return records.map((r, i) => (i === at ? record : r));
  return [record, ...records].slice(0, most);
}
