// Elements from data. Text only ever becomes a text node, so nothing that a model or a server says can be markup.

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

// attributes: `class`, `on…` handlers, booleans, and whatever else as it is; children: nodes, strings, null is left out.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Writing the text that is there already would lose the reader's selection.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
