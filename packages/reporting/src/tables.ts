import Papa from 'papaparse';

/** A cell's value; null and undefined leave it empty. */
export type Cell = string | number | null | undefined;

/** A column: its title (with its unit), and whether its cells are numbers, which align to the right. */
export interface Column {
  title: string;
  numeric?: boolean;
}

/**
 * A Markdown table whose columns line up in the source as well.
 *
 * @param columns titles and alignment
 * @param rows one list of cells for each row, in the order of the columns; numbers are written as they are given
 */
export function markdownTable(columns: readonly Column[], rows: readonly (readonly Cell[])[]): string {
  const cells = rows.map((row) => columns.map((_, i) => escapeMarkdown(String(row[i] ?? ''))));
  const titles = columns.map(({ title }) => escapeMarkdown(title));
  const widths = columns.map((_, i) => Math.max(3, titles[i]!.length, ...cells.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, i) => (columns[i]!.numeric ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join(' | ')} |`;
  const rule = widths.map((width, i) => (columns[i]!.numeric ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [line(titles), line(rule), ...cells.map(line), ''].join('\n');
}

/** A CSV table (RFC 4180 quoting, `\n` line ends, a header line); numbers in full precision, missing cells empty. */
export function csvTable(titles: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const lines = [titles, ...rows].map((cells) => [...cells]);
  return `${Papa.unparse(lines, { newline: '\n' })}\n`;
}

function escapeMarkdown(cell: string): string {
  return cell.replaceAll('|', '\\|').replaceAll(/\s*\n\s*/g, ' ');
}
