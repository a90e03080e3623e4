/** What JSON.parse would pass over. */
export interface JsonScan {
  /** Keys that stand twice in one object, at any depth (JSON.parse keeps the last in silence). */
  duplicateKeys: string[];
  /** Whether brackets nest deeper than was allowed; the scan stops there. */
  tooDeep: boolean;
}

/**
 * One pass over a JSON text from an untrusted file, before it is parsed: finds duplicate keys, and nesting whose
 * parsing would take memory without bound. Text that is not JSON is passed over: saying so is JSON.parse's part.
 */
export function scanJson(json: string, maxDepth: number): JsonScan {
  const scan: JsonScan = { duplicateKeys: [], tooDeep: false };
  const open: Set<string>[] = [];
  for (let at = 0; at < json.length; at++) {
    const char = json[at];
    if (char === '{' || char === '[') open.push(new Set());
    else if (char === '}' || char === ']') open.pop();
    else if (char === '"') {
      const end = endOfString(json, at);
      if (isKey(json, end)) noteKey(json.slice(at, end), open.at(-1), scan);
      at = end - 1;
    }
    if (open.length > maxDepth) return { ...scan, tooDeep: true };
  }
  return scan;
}

function noteKey(token: string, keys: Set<string> | undefined, scan: JsonScan): void {
  const key = unquote(token);
  if (keys?.has(key)) scan.duplicateKeys.push(key);
  keys?.add(key);
}

function unquote(token: string): string {
  try {
    return JSON.parse(token) as string;
  } catch {
    return token;
  }
}

/** The index after the closing quote of the string that opens at `start`, or the end of the text. */
function endOfString(json: string, start: number): number {
  for (let at = start + 1; at < json.length; at++) {
    if (json[at] === '\\') at++;
    else if (json[at] === '"') return at + 1;
  }
  return json.length;
}

/** Whether the string that ends at `end` is followed by a colon. */
function isKey(json: string, end: number): boolean {
  let next = end;
  while (next < json.length && ' \n\r\t'.includes(json[next]!)) next++;
  return json[next] === ':';
}
