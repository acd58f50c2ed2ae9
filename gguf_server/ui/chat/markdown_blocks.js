// Markdown's blocks, as data: headings, lists, quotes, tables, fenced code, rules and paragraphs. What is not
// understood is a paragraph; an unfinished text (a model still writes) is as good as a finished one.
//
//   block   {kind: "heading", level, text} | {kind: "paragraph", text} | {kind: "code", language, text}
//           | {kind: "rule"} | {kind: "quote", blocks} | {kind: "list", isOrdered, start, items: [blocks]}
//           | {kind: "table", head: [text], alignments, rows: [[text]]}
// Each has its `source` besides.

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6}) +(.+)$/;
const RULE = /^ {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const DIVIDER = /^ {0,3}\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$/;
const DEEPEST = 8;

export function blocksOf(text) {
  return parse(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
}

function parse(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { block, end } = blockAt(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return fence(lines, at, match);
  if ((match = HEADING.exec(line))) return { block: heading(match), end: at + 1 };
  if (RULE.test(line)) return { block: { kind: "rule" }, end: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && (match = ITEM.exec(line))) return list(lines, at, match, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

const isBlank = (line) => line.trim() === "";

function heading([, marks, text]) {
  return { kind: "heading", level: marks.length, text: text.trim().replace(/ #+$/, "") };
}

function fence(lines, at, [line, marks, language]) {
  const indent = line.length - line.trimStart().length;
  const isEnd = (other) => {
    const trimmed = other.trim();
    return trimmed.length >= marks.length && trimmed === marks[0].repeat(trimmed.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((inner) => unindented(inner, indent)).join("\n");
  return { block: { kind: "code", language: language.trim().split(" ")[0], text }, end: end + 1 };
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { block: { kind: "quote", blocks: parse(inner, depth + 1) }, end };
}

function list(lines, at, [, indent, marker], depth) {
  const isOrdered = /\d/.test(marker);
  const items = [];
  let end = at;
  while (end < lines.length && isSibling(lines[end], indent.length, isOrdered)) {
    const from = end;
    const [head, , mark] = ITEM.exec(lines[from]);
    const width = Math.min(head.length, indent.length + mark.length + 1);
    end = endOfItem(lines, from + 1, indent.length, width);
    const inner = [lines[from].slice(head.length), ...lines.slice(from + 1, end).map((line) => unindented(line, width))];
    items.push(parse(inner, depth + 1));
    const next = firstNotBlank(lines, end);
    if (next < lines.length && isSibling(lines[next], indent.length, isOrdered)) end = next;
  }
  return { block: { kind: "list", isOrdered, start: isOrdered ? Number.parseInt(marker, 10) : 1, items }, end };
}

function isSibling(line, indent, isOrdered) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return false;
  return /\d/.test(match[2]) === isOrdered && match[1].length <= indent + 1;
}

// What belongs to an item: lines further in, and those that go on with its paragraph.
function endOfItem(lines, at, indent, width) {
  let end = at;
  while (end < lines.length) {
    if (isBlank(lines[end])) {
      const next = firstNotBlank(lines, end);
      if (next >= lines.length || indentOf(lines[next]) < width) return end;
      end = next;
    } else if (indentOf(lines[end]) < width && (ITEM.test(lines[end]) || startsBlock(lines, end))) {
      if (indentOf(lines[end]) <= indent + 1 || !ITEM.test(lines[end])) return end;
    }
    end += 1;
  }
  return end;
}

function firstNotBlank(lines, at) {
  while (at < lines.length && isBlank(lines[at])) at += 1;
  return at;
}

const indentOf = (line) => line.length - line.trimStart().length;

const unindented = (line, width) => line.slice(Math.min(width, indentOf(line)));

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && DIVIDER.test(lines[at + 1]);
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const alignments = cells(lines[at + 1]).map((rule) => {
    if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = lines.slice(at + 2, end).map(cells);
  return { block: { kind: "table", head: cells(lines[at]), alignments, rows }, end };
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function startsBlock(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines, end) && !ITEM.test(lines[end])) {
    if (isTable(lines, end)) break;
    end += 1;
  }
  return { block: { kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end };
}
