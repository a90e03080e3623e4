import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readRecords } from './records.ts';
import { goldenPath, hasShared, sharedData } from './test-data.ts';

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'blockwise-records-'))));
afterEach(() => rmSync(folder, { recursive: true }));

function write(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}
const lines = (...records: unknown[]): string => records.map((record) => JSON.stringify(record)).join('\n') + '\n';

it('readRecords joins datasets of any length', async () => {
  const count = 200_000; // more than a call takes arguments
  const many = write('many.jsonl', lines({ text: 'x' }).repeat(count));
  expect((await readRecords([write('few.jsonl', lines({ text: 'y' })), many])).records).toHaveLength(count + 1);
});

it('readRecords takes a line as long as the file in time that grows with its length alone', async () => {
  const path = write('long.txt', 'x'.repeat(100_000_000)); // took more than a minute
  expect((await readRecords(path)).records).toHaveLength(1);
});

describe('readRecords normalises', () => {
  it('Alpaca records: input after the instruction, history before, system', async () => {
    const path = write('a.json', [
      { instruction: 'Add.', input: '2, 3', output: '5' },
      { instruction: 'Say hi.', input: '', output: 'Hi.', history: [['One', '1']], system: 'Be brief.', id: 7 },
      { instruction: 'No input.', input: null, output: '', history: null, system: '' },
    ]);
    expect(await readRecords(path)).toEqual({
      kind: 'conversations',
      skipped: { count: 0 },
      records: [
        {
          messages: [
            { role: 'user', content: 'Add.\n2, 3' },
            { role: 'assistant', content: '5' },
          ],
        },
        {
          system: 'Be brief.',
          messages: [
            { role: 'user', content: 'One' },
            { role: 'assistant', content: '1' },
            { role: 'user', content: 'Say hi.' },
            { role: 'assistant', content: 'Hi.' },
          ],
        },
        {
          messages: [
            { role: 'user', content: 'No input.' },
            { role: 'assistant', content: '' },
          ],
        },
      ],
    });
  });

  it('ShareGPT records in both spellings, a system turn over the system field, tools ignored', async () => {
    const path = write(
      's.jsonl',
      lines(
        {
          conversations: [
            { from: 'human', value: 'a' },
            { from: 'gpt', value: 'b' },
          ],
          system: 'S',
          tools: '[]',
        },
        {
          conversations: [
            { from: 'system', value: 'T' },
            { from: 'human', value: 'c' },
            { from: 'gpt', value: 'd' },
          ],
          system: 'S',
        },
      ),
    );
    const messages = write(
      'm.jsonl',
      lines({
        messages: [
          { role: 'user', content: 'e' },
          { role: 'assistant', content: 'f' },
        ],
      }),
    );
    const { records } = await readRecords([path, messages]);
    expect(records).toEqual([
      {
        system: 'S',
        messages: [
          { role: 'user', content: 'a' },
          { role: 'assistant', content: 'b' },
        ],
      },
      {
        system: 'T',
        messages: [
          { role: 'user', content: 'c' },
          { role: 'assistant', content: 'd' },
        ],
      },
      {
        messages: [
          { role: 'user', content: 'e' },
          { role: 'assistant', content: 'f' },
        ],
      },
    ]);
  });

  it('what can be used of a dataset, and counts what LLaMA-Factory too leaves out of it', async () => {
    const [human, gpt] = [
      { from: 'human', value: 'x' },
      { from: 'gpt', value: 'y' },
    ];
    const turns = [[human, gpt], [human], [], [gpt, human, gpt], [human, human, gpt], [human, gpt, human, gpt]];
    const path = write('shared.json', turns.map((conversations) => ({ conversations }))); // prettier-ignore
    const { records, skipped } = await readRecords(path);
    expect(records.map((record) => 'messages' in record && record.messages.length)).toEqual([2, 4]);
    expect(skipped.count).toBe(4);
    expect(skipped.first).toMatch(/shared\.json: record 1, field "conversations": found a user's turn at the end/);
    const alpaca = write(
      'alpaca.jsonl',
      lines({ instruction: 'a', output: null }, { instruction: null, input: 'b', output: 'c' }, { instruction: 'd' }),
    );
    expect(await readRecords(alpaca)).toMatchObject({
      records: [{ messages: [{ content: 'b' }, { content: 'c' }] }],
      skipped: { count: 2 },
    });
    expect((await readRecords([alpaca, path])).skipped.count).toBe(6);
  });

  it('answers that are empty beside others that are not', async () => {
    const history = [['One', '1']];
    expect((await readRecords(write('h.json', [{ instruction: 'x', output: '', history }]))).records).toHaveLength(1);
  });

  it('line separators inside of JSON lines, which end no line', async () => {
    const text = 'one\u2028two\u2029three';
    for (const name of ['s.jsonl', 's.json'])
      expect((await readRecords(write(name, `{"text":"${text}"}\n{"text":"x"}\n`))).records).toEqual([{ text }, { text: 'x' }]); // prettier-ignore
    expect((await readRecords(write('s.txt', `${text}\r\nx`))).records).toEqual([{ text }, { text: 'x' }]);
  });

  it('texts, from JSON lines (also under .json, with a byte order mark and blank lines) and from .txt', async () => {
    const expected = { kind: 'texts', skipped: { count: 0 }, records: [{ text: 'one' }, { text: 'two' }] };
    expect(await readRecords(write('t.jsonl', '\uFEFF{"text":"one"}\r\n\r\n{"text":"two"}'))).toEqual(expected);
    expect(await readRecords(write('t.json', lines({ text: 'one' }, { text: 'two' })))).toEqual(expected);
    expect(await readRecords(write('t.json', `\n \n${lines({ text: 'one' }, { text: 'two' })}`))).toEqual(expected);
    expect(await readRecords(write('t.txt', 'one\n\n  \ntwo\n'))).toEqual(expected);
  });

  it('Parquet files with lists, structs, nulls, snappy and zstd', async () => {
    // tools/golden/parquet_records.py, made with pyarrow.
    const files = ['alpaca-snappy.parquet', 'messages-zstd.parquet'].map(goldenPath);
    const { records } = await readRecords(files);
    expect(records).toEqual([
      {
        system: 'Be exact.',
        messages: [
          { role: 'user', content: 'Hi' },
          { role: 'assistant', content: 'Hello' },
          { role: 'user', content: 'Add the numbers.\n2, 3' },
          { role: 'assistant', content: '5' },
        ],
      },
      {
        messages: [
          { role: 'user', content: 'Grüße auf Chinesisch?' },
          { role: 'assistant', content: '你好 🎉' },
        ],
      },
      {
        messages: [
          { role: 'user', content: 'One?' },
          { role: 'assistant', content: '1' },
        ],
      },
      {
        system: 'Count.',
        messages: [
          { role: 'user', content: 'Two?' },
          { role: 'assistant', content: '2' },
          { role: 'user', content: 'Three?' },
          { role: 'assistant', content: '3' },
        ],
      },
    ]);
  });

  it.skipIf(!hasShared('alpaca_gpt4'))('the real files: Alpaca-GPT4, LIMA with histories, C4, Wikipedia', async () => {
    const count = async (path: string) => (await readRecords(`${sharedData}/${path}`)).records.length;
    expect(await count('alpaca_gpt4/alpaca_gpt4_data_en_999.json')).toBe(999);
    expect(await count('lima/lima.json')).toBe(1029);
    expect(await count('text/c4_demo.jsonl')).toBe(300);
    expect(await count('text/wiki_demo.txt')).toBe(30);
  });
});

describe('readRecords refuses, naming file, record, field and remedy', () => {
  const refusal = async (name: string, content: unknown): Promise<string> => {
    const path = write(name, content);
    const error = await readRecords(path).then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.name).toBe('UserError');
    expect(error!.message.startsWith(`${path}: `)).toBe(true);
    return error!.message.slice(path.length + 2);
  };

  it('records of the wrong shape, the first ten of them and a count', async () => {
    const prompts = Array.from({ length: 12 }, () => ({ instruction: 'x', input: '', output: 3 }));
    const message = await refusal('p.json', [{ instruction: 'x', output: 'y' }, ...prompts]);
    expect(message).toContain('12 of 13 records cannot be used (Alpaca: "instruction", "output"');
    expect(message).toContain('  record 1, field "output": found number 3; expected a string: the answer to learn\n');
    expect(message).toContain('record 10,');
    expect(message).not.toContain('record 11,');
    expect(message).toMatch(/\n {2}\.\.\. and 2 more\nMend or remove these records\.$/);
  });

  it('answers that are all empty', async () => {
    const message = await refusal('e.json', [
      { instruction: 'x', output: '' },
      { instruction: 'y', output: ' ' },
    ]);
    expect(message).toContain(
      'all 2 records have an empty text to learn (records 0 to 1); expected answers in "output"',
    );
  });

  it('conversations without an answer, out of turn, with unknown roles or no text', async () => {
    const human = { from: 'human', value: 'x' };
    const gpt = { from: 'gpt', value: 'y' };
    const message = await refusal('c.json', [
      { conversations: [human] },
      { conversations: [] },
      { conversations: [gpt, human, gpt] },
      { conversations: [human, { from: 'tool', value: 'x' }] },
      { conversations: [human, { from: 'gpt', value: null }] },
      { conversations: 'x' },
      { conversations: ['x'] },
      { conversations: [human, gpt], system: 3 },
      5,
    ]);
    const expected = "expected an assistant's turn at the end: the answer to learn";
    for (const line of [
      `record 0, field "conversations": found a user's turn at the end; ${expected}`,
      `record 1, field "conversations": found no message; ${expected}`,
      `record 2, field "conversations[0].from": found string "gpt"; expected the user's turn, for user and assistant must alternate`,
      'record 3, field "conversations[1].from": found string "tool"; expected one of human, user, gpt, assistant, system',
      'record 4, field "conversations[1].value": found null; expected a string',
      'record 5, field "conversations": found string "x"; expected a list of messages',
      'record 6, field "conversations[0]": found string "x"; expected an object with a role and a text',
      'record 7, field "system": found number 3; expected a string',
      'record 8, field "(record)": found number 5; expected an object',
    ]) {
      expect(message).toContain(line);
    }
  });

  it('wrong types in Alpaca records and texts', async () => {
    const message = await refusal('w.json', [
      { instruction: 1, output: 'y' },
      { instruction: 'x', input: 2, output: 'y' },
      { instruction: 'x', output: 'y', history: 'z' },
      { instruction: 'x', output: 'y', history: [['a', 'b'], ['c']] },
    ]);
    expect(message).toContain('record 0, field "instruction": found number 1; expected a string');
    expect(message).toContain('record 1, field "input": found number 2; expected a string');
    expect(message).toContain('record 2, field "history": found string "z"; expected a list of [prompt, answer]');
    expect(message).toContain(
      'record 3, field "history[1]": found a list of 1; expected a pair of strings [prompt, answer]',
    );
    expect(await refusal('t.json', [{ text: {} }])).toContain(
      'record 0, field "text": found an object; expected a string',
    );
  });

  it('unknown shapes, listing the known ones', async () => {
    const message = await refusal('u.json', [{ question: 'x', answer: 'y' }]);
    expect(message).toContain(
      'record 0 has the fields "question", "answer", which is no known shape. Expected one of:',
    );
    expect(message).toContain('Alpaca: "instruction", "output"');
    expect(await refusal('n.json', [1])).toContain('record 0 has number 1, which is no known shape');
  });

  it('empty datasets', async () => {
    for (const [name, content] of [
      ['e.json', '[]'],
      ['e.jsonl', ''],
      ['b.json', ' \n'],
      ['e.txt', '\n'],
    ] as const) {
      expect(await refusal(name, content)).toBe('the dataset is empty; expected at least one record.');
    }
  });

  it('broken files', async () => {
    expect(await refusal('b.json', '[{"a": 1')).toMatch(/^not valid JSON \(.*\)\.$/);
    expect(await refusal('b.jsonl', '{"text": "a"}\n\n{oops}')).toMatch(/^line 3 is not valid JSON \(.*\)\.$/);
    expect(await refusal('b.parquet', 'PAR1 not really')).toMatch(
      /^not a Parquet file that can be read \(.*\); download it again\.$/,
    );
    expect(await refusal('o.json', '{\n "data": []\n}')).toBe('found an object; expected an array of records.');
    expect(await refusal('x.csv', 'a,b')).toBe(
      'not a dataset file; expected a file ending in .json, .jsonl, .parquet, .txt.',
    );
  });

  it('damaged Parquet files, whose columns all fail (vitest fails where one of them is left unhandled)', async () => {
    const bytes = readFileSync(goldenPath('messages-zstd.parquet'));
    for (const [at, value] of [
      [5, 123],
      [710, 125],
      [787, 116],
    ])
      bytes[at] = value;
    const path = join(folder, 'd.parquet');
    writeFileSync(path, bytes);
    await expect(readRecords(path)).rejects.toThrow('d.parquet: not a Parquet file that can be read');
  });

  it('files of another encoding, whose characters would be lost in silence', async () => {
    for (const [name, bytes] of [
      ['l.jsonl', Buffer.from('{"text": "caf\u00e9"}', 'latin1')],
      ['l.json', Buffer.from('[{"text": "caf\u00e9"}]', 'latin1')],
      ['u.txt', Buffer.from('\uFEFFtext', 'utf16le')],
    ] as const) {
      writeFileSync(join(folder, name), bytes);
      await expect(readRecords(join(folder, name))).rejects.toThrow(`${name}: not UTF-8; convert it`);
    }
  });

  it('a link to a device, which has no end', async () => {
    symlinkSync('/dev/zero', join(folder, 'z.json'));
    await expect(readRecords(join(folder, 'z.json'))).rejects.toThrow('z.json: not a dataset file');
  });

  it('missing files, none at all, and files of unlike kinds', async () => {
    await expect(readRecords(join(folder, 'gone.json'))).rejects.toThrow('gone.json: no such file.');
    await expect(readRecords([])).rejects.toThrow('dataset: no file given.');
    const mixed = [write('k.jsonl', lines({ instruction: 'x', output: 'y' })), write('k.txt', 'text')];
    await expect(readRecords(mixed)).rejects.toThrow(`${mixed[1]}: holds texts where ${mixed[0]} holds conversations`);
  });
});
