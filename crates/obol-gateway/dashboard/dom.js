// Building and changing elements. Text goes in as text nodes only: no HTML is ever parsed.

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'g', 'path', 'rect', 'line', 'text', 'circle', 'polygon', 'title', 'desc', 'defs', 'pattern']);
const HANDLERS = Symbol('handlers');

function dispatch(event) {
  event.currentTarget[HANDLERS]?.[event.type]?.(event);
}

/** An element: attributes, `on...` handlers, `dataset`-like "data-x" attributes, and children (nodes, text, arrays, null). */
export function h(tag, props = {}, ...children) {
  const el = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) listen(el, name.slice(2), value);
    else if (name === 'key') el.setAttribute('data-key', value);
    else if (name === 'value') el.value = value;
    else if (value === true) el.setAttribute(name, '');
    else el.setAttribute(name, String(value));
  }
  add(el, children);
  return el;
}

function listen(el, type, handler) {
  el[HANDLERS] ??= {};
  if (!(type in el[HANDLERS])) el.addEventListener(type, dispatch);
  el[HANDLERS][type] = handler;
}

function add(el, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(el, child);
    else if (child !== null && child !== undefined && child !== false) el.append(child);
  }
}

/** Makes the children of `parent` be `children`, keeping what is there already: focus, scroll places, open details, hover. */
export function fill(parent, ...children) {
  const wanted = document.createDocumentFragment();
  add(wanted, children);
  morphChildren(parent, wanted);
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.childNodes) {
    const key = child.nodeType === 1 && child.getAttribute('data-key');
    if (key) keyed.set(key, child);
  }
  let at = from.firstChild;
  for (const next of [...to.childNodes]) {
    const key = next.nodeType === 1 && next.getAttribute('data-key');
    let old = key ? keyed.get(key) : at;
    if (!key) {
      while (old && old.nodeType === 1 && old.getAttribute('data-key')) old = old.nextSibling;
    }
    if (old && old.nodeName === next.nodeName) {
      if (old !== at) from.insertBefore(old, at);
      else at = at.nextSibling;
      morph(old, next);
    } else {
      from.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function morph(old, next) {
  if (old.nodeType !== 1) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // What the reader opened stays open; a dialogue too.
    if (!next.hasAttribute(name) && !(name === 'open')) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old[HANDLERS] || next[HANDLERS]) {
    for (const [type, handler] of Object.entries(next[HANDLERS] ?? {})) listen(old, type, handler);
    for (const type of Object.keys(old[HANDLERS] ?? {})) if (!next[HANDLERS]?.[type]) old[HANDLERS][type] = null;
  }
  morphChildren(old, next);
}

/** Sets custom properties by CSSOM: the content security policy allows no style attributes. */
export function setVars(el, vars) {
  for (const [name, value] of Object.entries(vars)) el.style.setProperty(name, value);
  return el;
}
