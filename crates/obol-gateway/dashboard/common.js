// The pieces that all views are made of.
import { smallBar } from './charts.js';
import { fill, h } from './dom.js';
import { amount, exactBytes, bytes, integer, localTime, relative, short, utc, when } from './format.js';

/** A titled section. `tools` stand at the right of the heading. */
export function card(title, { tools = null, note = null, wide = false, className = '' } = {}, ...children) {
  const body = h('div', { class: 'card-body' }, ...children);
  const id = `h-${title.toLowerCase().replace(/[^a-z]+/g, '-')}`;
  const root = h('section', { class: `card ${wide ? 'wide' : ''} ${className}`, 'aria-labelledby': id },
    h('header', { class: 'card-head' }, h('h2', { id }, title), tools), note ? h('p', { class: 'note' }, note) : null, body);
  return { root, body };
}

/** A point in time: local, with UTC in the title. */
export function time(unix, now, style = 'when') {
  if (unix === null || unix === undefined) return '–';
  const text = style === 'relative' ? relative(unix, now) : style === 'full' ? localTime(unix) : when(unix, now);
  const title = style === 'relative' ? `${localTime(unix)} local, ${utc(unix)}` : `${utc(unix)}, ${relative(unix, now)}`;
  return h('time', { datetime: new Date(Number(unix) * 1000).toISOString(), title }, text);
}

/** Bytes, exact in the title. */
export const size = value => h('span', { class: 'num', title: exactBytes(value) }, bytes(value));

/** An amount, in stroops in the title. */
export function money(stroops, code = '', { sign = false } = {}) {
  if (stroops === null || stroops === undefined) return h('span', { class: 'num unknown', title: 'not known' }, '–');
  return h('span', { class: 'num', title: `${integer(stroops)} stroops` }, (sign && BigInt(stroops) > 0n ? '+' : '') + amount(stroops, code));
}

/** The same for the large figures: what is after the point is smaller, and still exact. */
export function figure(stroops, code = '') {
  if (stroops === null || stroops === undefined) return money(null);
  const [whole, rest] = amount(stroops).split('.');
  return h('span', { class: 'num', title: `${integer(stroops)} stroops` }, whole, rest ? h('span', { class: 'fraction' }, `.${rest}`) : null, h('small', {}, `\u00a0${code}`));
}

/** A key or hash: shortened, whole in the title, copied by a click. */
export function key(text, what = 'key', head = 6, tail = 4) {
  if (!text) return '–';
  return h('button', { type: 'button', class: 'key', title: `${text} (click: copy)`, 'aria-label': `Copy the ${what} ${short(text)}`,
    onclick: e => copy(text, e.currentTarget) }, short(text, head, tail));
}

/** Copies text, and says so for a moment on the button. */
export async function copy(text, button) {
  const before = button.textContent;
  let said = 'copied';
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    said = 'not copied: the browser forbids it here';
  }
  announce(said);
  button.textContent = said.slice(0, 10);
  setTimeout(() => {
    button.textContent = before;
  }, 1200);
}

/** Says something to screen readers. */
export function announce(text) {
  const place = document.getElementById('announcements');
  if (place) place.textContent = text;
}

/** A small word in a colour: good, warn, bad, busy, off. */
export const badge = (text, kind = 'off', title = null) => h('span', { class: `badge ${kind}`, title }, text);

/** What to read, and what to do next, where nothing is. */
export const empty = (text, next = null) => h('p', { class: 'empty' }, text, next ? h('span', { class: 'next' }, ' ', next) : null);

export const problem = error => h('p', { class: 'problem', role: 'alert' }, error.message ?? String(error));

/**
 * A table that becomes a list of cards on a narrow screen. Columns: {name, cell: row => node or text, num, bar: row => fraction, barClass, title}.
 */
export function table(caption, columns, rows, { rowKey, onRow = null, selected = null } = {}) {
  return h('div', { class: 'scroll' }, h('table', { class: `data ${columns.length > 6 ? 'many' : ''}`, role: 'table' },
    h('caption', { class: 'visually-hidden' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map(c => h('th', { scope: 'col', role: 'columnheader', class: c.num ? 'num' : null,
      title: c.title }, c.name)))),
    h('tbody', { role: 'rowgroup' }, rows.map(row => h('tr', { role: 'row', key: rowKey ? rowKey(row) : null,
      class: selected !== null && rowKey(row) === selected ? 'selected' : null, onclick: onRow ? () => onRow(row) : null },
    columns.map((c, i) => h('td', { role: i === 0 ? 'rowheader' : 'cell', class: `${c.num ? 'num' : ''} ${c.wrap ? 'wrap' : ''}`, 'data-label': c.name },
      h('span', { class: 'cell' }, c.cell(row)), c.bar ? smallBar(c.bar(row), c.barClass) : null)))))));
}

/** The first rows of a long list, and a button for all of them. */
export function some(rows, state, redraw, most = innerWidth < 700 ? 15 : 50) {
  if (rows.length <= most || state.all) return { rows, more: null };
  return { rows: rows.slice(0, most), more: h('p', { class: 'more-rows' }, h('button', { type: 'button', onclick: () => {
    state.all = true;
    redraw();
  } }, `Show all ${integer(rows.length)}`)) };
}

/** One figure with its name. */
export const tile = (name, value, more = null, className = '') => h('div', { class: `tile ${className}` },
  h('dt', {}, name), h('dd', {}, value, more ? h('span', { class: 'more' }, more) : null));

export const tiles = (...list) => h('dl', { class: 'tiles' }, list);

/** Name and value pairs. */
export const facts = (...pairs) => h('dl', { class: 'facts' }, pairs.filter(Boolean).map(([name, value, title]) => h('div', { title },
  h('dt', {}, name), h('dd', {}, value))));

/** Buttons of which one is chosen. */
export function choice(label, options, chosen, onChoose) {
  const root = h('div', { class: 'choice', role: 'radiogroup', 'aria-label': label });
  const names = Object.keys(options);
  const draw = () => fill(root, names.map(name => h('button', { type: 'button', role: 'radio', 'aria-checked': String(name === chosen),
    tabindex: name === chosen ? '0' : '-1', onclick: () => pick(name) }, options[name])));
  const pick = (name, focus = false) => {
    chosen = name;
    draw();
    if (focus) root.children[names.indexOf(name)].focus();
    onChoose(name);
  };
  root.addEventListener('keydown', e => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    pick(names[(names.indexOf(chosen) + step + names.length) % names.length], true);
  });
  draw();
  return root;
}

let fields = 0;

/** A labelled control. `control` gets an id; the hint and the error are tied to it. */
export function field(label, control, hint = null) {
  const id = `f-${fields += 1}`;
  control.id = id;
  const error = h('span', { class: 'field-error', id: `${id}-e`, role: 'alert' });
  control.setAttribute('aria-describedby', `${id}-e${hint ? ` ${id}-h` : ''}`);
  const root = h('div', { class: 'field' }, h('label', { for: id }, label), control, hint ? h('span', { class: 'hint', id: `${id}-h` }, hint) : null, error);
  return { root, control, fail(text) {
    error.textContent = text;
    control.setAttribute('aria-invalid', text ? 'true' : 'false');
    if (text) control.focus();
  } };
}

/** A form that asks the API for something: busy while it does, and says what went wrong. `run` may throw. */
export function form(label, fieldList, button, run, { className = '' } = {}) {
  const said = h('p', { class: 'said', role: 'status' });
  const submit = h('button', { type: 'submit', class: 'primary' }, button);
  const root = h('form', { class: `form ${className}`, 'aria-label': label, novalidate: true, onsubmit: async e => {
    e.preventDefault();
    if (submit.disabled) return;
    for (const f of fieldList) f.fail('');
    said.className = 'said';
    said.textContent = '';
    submit.disabled = true;
    try {
      said.textContent = (await run()) ?? '';
    } catch (error) {
      if (error.field) error.field.fail(error.message);
      else {
        said.className = 'said problem';
        said.textContent = error.message;
      }
    } finally {
      submit.disabled = false;
    }
  } }, fieldList.map(f => f.root), h('div', { class: 'form-end' }, submit, said));
  return root;
}

/** Reads a field, and ties what is wrong with it to the field. */
export function read(f, parse) {
  try {
    return parse(f.control.value);
  } catch (error) {
    error.field = f;
    throw error;
  }
}

/** Asks before something that cannot be undone. Resolves to true or false. */
export function confirm(title, text, yes) {
  return new Promise(resolve => {
    const close = answer => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const dialog = h('dialog', { 'aria-labelledby': 'confirm-title' }, h('h2', { id: 'confirm-title' }, title), text.map(t => h('p', {}, t)),
      h('div', { class: 'form-end' }, h('button', { type: 'button', class: 'primary', onclick: () => close(true) }, yes),
        h('button', { type: 'button', autofocus: true, onclick: () => close(false) }, 'Cancel')));
    dialog.addEventListener('cancel', e => {
      e.preventDefault();
      close(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Buttons for the pages of a list. */
export function pageButtons(pager, onPage) {
  if (!pager.hasNext && !pager.hasPrevious) return null;
  return h('nav', { class: 'pages', 'aria-label': 'Pages' },
    h('button', { type: 'button', disabled: !pager.hasPrevious, onclick: () => onPage(pager.back()) }, '← Back'),
    h('span', {}, `Page ${pager.page}`),
    h('button', { type: 'button', disabled: !pager.hasNext, onclick: () => onPage(pager.forward()) }, 'Next →'));
}
