/** What Python's regular expressions spell otherwise than JavaScript's, and how JavaScript does; an escaped character is passed over whole. */
const spellings: Record<string, string> = { '(?P<': '(?<', '\\A': '^', '\\Z': '$' };

/**
 * A regular expression of an adapter_config.json, in Python's syntax (JavaScript's passes too), as Python's re.fullmatch() applies it.
 * @throws SyntaxError where it is none, or has what JavaScript's have not
 */
export function pythonPattern(source: string): RegExp {
  const [, flags = '', body] = /^(?:\(\?([ims]+)\))?(.*)$/s.exec(source)!;
  const ours = body.replace(/\(\?P<|\(\?P=(\w+)\)|\\./gs, (found, name?: string) =>
    name === undefined ? (spellings[found] ?? found) : `\\k<${name}>`,
  );
  return new RegExp(`^(?:${ours})$`, flags);
}
