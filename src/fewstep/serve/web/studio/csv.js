/** Tables as text, and templates with {columns}. Pure. */

const SEPARATORS = ["\t", ",", ";"]; // the last is what spreadsheets write where a comma is in numbers

/** Rows of a CSV or tab-separated text, as RFC 4180 has it. @param {string} text @returns {string[][]} */
export function parseCsv(text) {
  const names = text.split("\n", 1)[0].replace(/"[^"]*"/g, "");
  const separator = SEPARATORS.find((one) => names.includes(one)) ?? ",";
  const rows = [[""]];
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    const row = rows.at(-1);
    if (quoted) {
      if (letter !== '"') row[row.length - 1] += letter;
      else if (text[at + 1] === '"') row[row.length - 1] += text[(at += 1)];
      else quoted = false;
    } else if (letter === '"' && row.at(-1) === "") quoted = true;
    else if (letter === separator) row.push("");
    else if (letter === "\n") rows.push([""]);
    else if (letter !== "\r") row[row.length - 1] += letter;
  }
  return rows.map((row) => row.map((cell) => cell.trim())).filter((row) => row.some(Boolean));
}

/** One object a row, by the names in the first. @returns {{columns: string[], rows: Object<string, string>[]}} */
export function table(text) {
  const [columns = [], ...rows] = parseCsv(text);
  return { columns, rows: rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i] ?? ""]))) };
}

/** `template` with each {column} filled in. Throws an Error, in words, on a column that is not there. @param {Object<string, string>} row */
export function fill(template, row) {
  return template.replace(/\{([^{}]*)\}/g, (_, name) => {
    const key = Object.keys(row).find((column) => column.toLowerCase() === name.trim().toLowerCase());
    if (key === undefined) throw new Error(`The table has no column “${name.trim()}”: it has ${Object.keys(row).join(", ") || "none"}.`);
    return row[key];
  });
}
