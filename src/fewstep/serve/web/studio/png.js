/** The record that a picture file carries (engine/files.py): PNG text chunks, or the maker's note of JPEG and WebP. */

import { crc32 } from "./zip.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const LARGEST = 1 << 27; // bytes of a file that is looked into
const LONGEST = 1 << 16; // characters of a text
const NOTE = "fewstep\0{";
const HEAD = 33; // bytes of a PNG up to the end of its first chunk

/** How a picture was made: the JSON record of fewstep, else what AUTOMATIC1111's text says. Throws an Error, in words, where there is neither. @param {Blob} file */
export async function readRecord(file) {
  if (file.size > LARGEST) throw new Error("this file is too large to be looked into");
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (SIGNATURE.every((byte, i) => bytes[i] === byte)) {
    const texts = await pngTexts(bytes);
    if (texts.fewstep) return recordIn(texts.fewstep);
    if (texts.parameters) return fromParameters(texts.parameters);
  } else {
    const record = makersNote(bytes);
    if (record) return record;
  }
  throw new Error("this picture does not say how it was made. To begin from it, drop it on the Canvas");
}

/** Texts of a PNG by keyword: tEXt, zTXt and iTXt. @param {Uint8Array} bytes */
export async function pngTexts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const texts = {};
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (["tEXt", "zTXt", "iTXt"].includes(kind)) {
      const [key, text] = await textOf(kind, data);
      if (key && text.length <= LONGEST) texts[key] = text;
    }
    if (kind === "IEND") break;
    at += 12 + length;
  }
  return texts;
}

/** `png` with one text more. @param {Blob} png @param {string} key @param {string} text both ASCII @returns {Blob} */
export function withText(png, key, text) {
  const content = new TextEncoder().encode(`tEXt${key}\0${text}`);
  const chunk = new Uint8Array(8 + content.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, content.length - 4);
  chunk.set(content, 4);
  view.setUint32(4 + content.length, crc32(content));
  return new Blob([png.slice(0, HEAD), chunk, png.slice(HEAD)], { type: "image/png" });
}

async function textOf(kind, data) {
  const end = data.indexOf(0);
  if (end < 1) return [];
  const key = latin(data.subarray(0, end));
  if (kind === "tEXt") return [key, latin(data.subarray(end + 1))];
  if (kind === "zTXt") return [key, latin(await inflate(data.subarray(end + 2)))];
  if (kind !== "iTXt") return [];
  const language = data.indexOf(0, end + 3);
  const translated = data.indexOf(0, language + 1);
  const text = data.subarray(translated + 1);
  return [key, new TextDecoder().decode(data[end + 1] ? await inflate(text) : text)];
}

async function inflate(data) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  let size = 0;
  for (let { done, value } = await reader.read(); !done && size <= LONGEST; { done, value } = await reader.read()) {
    parts.push(value);
    size += value.length;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** AUTOMATIC1111's text: the prompt, then a line of settings. */
export function fromParameters(text) {
  const lines = text.split("\n");
  const last = lines.findLastIndex((line) => /(^|, )Seed: \d/.test(line));
  if (last < 1) throw new Error("its text has no seed");
  const number = (name) => Number(lines[last].match(new RegExp(`(?:^|, )${name}: (\\d+)`))?.[1] ?? NaN);
  const [, width, height] = lines[last].match(/Size: (\d+)x(\d+)/) ?? [];
  const [prompt, negative] = lines.slice(0, last).join("\n").split(/\n?Negative prompt: ?/);
  return { prompt, ...(negative && { negative }), seed: number("Seed"), steps: number("Steps"), width: Number(width), height: Number(height) };
}

function makersNote(bytes) {
  const text = new TextDecoder("utf-8").decode(bytes.subarray(0, 1 << 18)) + new TextDecoder("utf-8").decode(bytes.subarray(-(1 << 17)));
  const start = text.indexOf(NOTE);
  if (start < 0) return null;
  const from = start + NOTE.length - 1;
  for (let depth = 0, quoted = false, at = from; at < Math.min(text.length, from + LONGEST); at += 1) {
    if (quoted) {
      if (text[at] === "\\") at += 1;
      else if (text[at] === '"') quoted = false;
    } else if (text[at] === '"') quoted = true;
    else if (text[at] === "{") depth += 1;
    else if (text[at] === "}" && (depth -= 1) === 0) return recordIn(text.slice(from, at + 1));
  }
  return null;
}

function recordIn(text) {
  let record = null;
  try {
    record = JSON.parse(text);
  } catch {
    // As null is, it is damaged.
  }
  if (!(record instanceof Object)) throw new Error("what this picture says of how it was made is damaged");
  return record;
}

const latin = (bytes) => new TextDecoder("latin1").decode(bytes);
