import { isObject } from '@blockwise/errors';

/** What a dataset calls the parts of its records; undefined: it has none. */
export type RecordLayout =
  | {
      formatting: 'alpaca';
      prompt?: string | undefined;
      query?: string | undefined;
      response?: string | undefined;
      history?: string | undefined;
      system?: string | undefined;
    }
  | {
      formatting: 'sharegpt';
      messages?: string | undefined;
      system?: string | undefined;
      /** Of a message: its role, and its text. */
      role?: string | undefined;
      content?: string | undefined;
      /** What the roles are called. */
      user?: string | undefined;
      assistant?: string | undefined;
      systemTag?: string | undefined;
    };

/** A record under the names that readRecords() knows. An Alpaca layout of a prompt alone is plain text. */
export function inStandardNames(layout: RecordLayout, record: unknown): unknown {
  if (!isObject(record)) return record;
  const part = (name: string | undefined) => (name === undefined ? undefined : record[name]);
  if (layout.formatting === 'alpaca') {
    const { prompt, query, response, history, system } = layout;
    if (response === undefined) return { text: part(prompt) };
    const parts = { instruction: part(prompt), input: part(query), output: part(response) };
    return { ...parts, history: part(history), system: part(system) };
  }
  const { messages, system, role, content, user, assistant, systemTag } = layout;
  const roleOf = (tag: unknown) => {
    if (tag === undefined) return undefined;
    return tag === user ? 'human' : tag === assistant ? 'gpt' : tag === systemTag ? 'system' : tag;
  };
  const turns = part(messages);
  const standard = (turn: unknown) =>
    isObject(turn) ? { from: roleOf(turn[role ?? '']), value: turn[content ?? ''] } : turn;
  return { conversations: Array.isArray(turns) ? turns.map(standard) : turns, system: part(system) };
}
