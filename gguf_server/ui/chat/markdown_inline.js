// What is inside a line of Markdown: code, emphasis, links. Everything else, HTML included, is text.

import { h } from "../dom.js";

const MARK = /(`+)|(\*\*|__|~~|\*|_)|(!?\[)|(https?:\/\/[^\s<>[\]"'`*]+)|\\([!-/:-@[-`{-~])|(\n|<br ?\/?>)/g;
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const ADDRESS = /^(?:https?:\/\/|mailto:)/i;
const DEEPEST = 6;

// text → nodes
export function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that are not closed any more: not looked for again
  const marks = new RegExp(MARK);
  let from = 0;
  let match;
  while ((match = marks.exec(text))) {
    const found = depth < DEEPEST ? nodeAt(text, match, missing, depth) : null;
    if (!found) continue;
    if (match.index > from) nodes.push(text.slice(from, match.index));
    nodes.push(...found.nodes);
    from = marks.lastIndex = found.end;
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

function nodeAt(text, match, missing, depth) {
  const [whole, ticks, mark, bracket, url, escaped, lineBreak] = match;
  const after = match.index + whole.length;
  if (ticks) return code(text, ticks, after, missing);
  if (mark) return emphasis(text, mark, match.index, missing, depth);
  if (bracket) return link(text, after, missing, depth);
  if (url) return bareLink(url, match.index);
  if (escaped) return { nodes: [escaped], end: after };
  return lineBreak ? { nodes: [h("br")], end: after } : null;
}

function code(text, ticks, after, missing) {
  if (missing.has(ticks)) return null;
  let end = text.indexOf(ticks, after);
  while (end >= 0 && (text[end + ticks.length] === "`" || text[end - 1] === "`")) {
    while (text[end] === "`") end += 1;
    end = text.indexOf(ticks, end);
  }
  if (end < 0) {
    missing.add(ticks);
    return { nodes: [ticks], end: after };
  }
  return { nodes: [h("code", {}, text.slice(after, end).replace(/^ (.+) $/s, "$1"))], end: end + ticks.length };
}

const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);
const isSpace = (character) => character === undefined || /\s/.test(character);

function emphasis(text, mark, at, missing, depth) {
  const after = at + mark.length;
  const isIntraword = mark[0] === "_" && isWord(text[at - 1]);
  if (missing.has(mark) || isSpace(text[after]) || isIntraword) return null;
  let end = text.indexOf(mark, after + 1);
  while (end >= 0 && !closes(text, mark, end)) end = text.indexOf(mark, end + 1);
  if (end < 0) {
    missing.add(mark);
    return null;
  }
  return { nodes: [h(TAGS[mark], {}, ...inline(text.slice(after, end), depth + 1))], end: end + mark.length };
}

// A single mark is not half of a double one.
function closes(text, mark, at) {
  if (isSpace(text[at - 1]) || (mark[0] === "_" && isWord(text[at + mark.length]))) return false;
  return mark.length > 1 ? text[at + mark.length] !== mark[0] : text[at - 1] !== mark && text[at + 1] !== mark;
}

// Pictures are not loaded, since their addresses lead elsewhere: they are links like others.
function link(text, after, missing, depth) {
  if (missing.has("](")) return null;
  const middle = text.indexOf("](", after);
  if (middle < 0) {
    missing.add("](");
    return null;
  }
  const name = text.slice(after, middle);
  const end = text.indexOf(")", middle);
  const href = text.slice(middle + 2, end).split(/\s/)[0];
  if (end < 0 || /[[\]]/.test(name) || !ADDRESS.test(href)) return null;
  return { nodes: [anchor(href, inline(name || href, depth + 1))], end: end + 1 };
}

function bareLink(url, at) {
  const href = url.replace(/[.,;:!?)]+$/, "");
  return { nodes: [anchor(href, [href])], end: at + href.length };
}

function anchor(href, children) {
  return h("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
