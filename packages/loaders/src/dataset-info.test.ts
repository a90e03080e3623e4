import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describedDataset } from './dataset-info.ts';
import { selectDataFiles } from './dataset-names.ts';
import { resolveDataset } from './hub.ts';
import { readRecords } from './records.ts';

let folder: string;
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'blockwise-info-'))));
afterEach(() => rmSync(folder, { recursive: true }));

const write = (name: string, json: unknown) => writeFileSync(join(folder, name), JSON.stringify(json));
const describeAs = (entry: unknown) => write('dataset_info.json', { mine: entry });
/** The records of the dataset `mine`, whose file holds some. */
async function read(entry: object, records: unknown) {
  describeAs({ file_name: 'mine.json', ...entry });
  write('mine.json', records);
  const set = await readRecords([await resolveDataset('mine', { datasetDir: folder })]);
  return set.records;
}
const talk = (...texts: string[]) => texts.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content }));

describe('a dataset of dataset_info.json', () => {
  it('has the names of its columns: those that it leaves out are none', async () => {
    const columns = { prompt: 'question', query: 'context', response: 'answer', history: 'past', system: 'role' };
    const record = { question: 'Q', context: 'C', answer: 'A', past: [['a', 'b']], role: 'S', instruction: 'no' };
    expect(await read({ columns }, [record])).toEqual([{ system: 'S', messages: talk('a', 'b', 'Q\nC', 'A') }]);
    const few = { prompt: 'question', response: 'answer' };
    expect(await read({ columns: few }, [record])).toEqual([{ messages: talk('Q', 'A') }]);
  });

  it('without columns is Alpaca, of which neither history nor system is used', async () => {
    const record = { instruction: 'I', input: 'J', output: 'O', history: [['a', 'b']], system: 'S' };
    expect(await read({}, [record])).toEqual([{ messages: talk('I\nJ', 'O') }]);
  });

  it('has the names of its roles', async () => {
    const tags = {
      role_tag: 'role',
      content_tag: 'content',
      user_tag: 'user',
      assistant_tag: 'bot',
      system_tag: 'sys',
    };
    const turns = [
      { role: 'sys', content: 'S' },
      { role: 'user', content: 'a' },
      { role: 'bot', content: 'b' },
    ];
    const entry = { formatting: 'sharegpt', columns: { messages: 'talk' }, tags };
    expect(await read(entry, [{ talk: turns }])).toEqual([{ system: 'S', messages: talk('a', 'b') }]);
    await expect(read(entry, [{ talk: [{ content: 'a' }] }])).rejects.toThrow('"conversations[0].from": found nothing');
    const standard = [
      { from: 'human', value: 'a' },
      { from: 'gpt', value: 'b' },
    ];
    const record = { conversations: standard, system: 'S' };
    expect(await read({ formatting: 'sharegpt' }, [record])).toEqual([{ messages: talk('a', 'b') }]);
  });

  it('with a prompt alone is text', async () => {
    expect(await read({ columns: { prompt: 'body' } }, [{ body: 'One.' }])).toEqual([{ text: 'One.' }]);
  });

  it('may be several files, or lie on the hub', async () => {
    mkdirSync(join(folder, 'parts'));
    for (const name of ['a', 'b']) write(`parts/${name}.json`, [{ instruction: name, output: 'x' }]);
    describeAs({ file_name: 'parts' });
    expect((await readRecords([await resolveDataset('mine', { datasetDir: folder })])).records).toHaveLength(2);
    describeAs({ hf_hub_url: 'org/set', ms_hub_url: 'x/y', subset: 'small', split: 'train_sft' });
    expect(describedDataset(folder, 'mine')!.source).toEqual({
      hub: { repo: 'org/set', subset: 'small', split: 'train_sft' },
    });
  });

  it('leaves other names what they are', async () => {
    describeAs({ file_name: 'mine.json' });
    write('other.json', []);
    const path = join(folder, 'other.json');
    expect(await resolveDataset(path, { datasetDir: folder })).toEqual({ files: [path] });
  });

  it('is refused with all that is wrong with it', () => {
    expect(() => describedDataset(folder, 'mine')).toThrow(/dataset_info\.json: cannot be read .*--dataset_dir/);
    describeAs({ ranking: true, formatting: 'csv', columns: { promt: 'x', images: 'y' }, script_url: 'z' });
    expect(() => describedDataset(folder, 'mine')).toThrow(
      [
        'dataset_info.json: mine: 6 problems',
        'mine.script_url is not supported; it may have file_name, hf_hub_url, ms_hub_url, om_hub_url, formatting, ranking, subset, split, folder, columns, tags',
        'ranking is true, and preferences are not trained on here',
        'formatting is "csv", expected alpaca, sharegpt or openai',
        'columns.promt is not supported (did you mean prompt?)',
        'columns.images is not supported; it may have prompt, query, response, history, messages, system, tools',
        'it has neither file_name nor hf_hub_url',
      ].join('\n  - '),
    );
  });

  it.each(['../secret.json', 'parts/../../secret.json', '..\\secret.json'])(
    'never leads out of its folder: %s',
    (file) => {
      describeAs({ file_name: file });
      expect(() => describedDataset(folder, 'mine')).toThrow(
        `file_name ${JSON.stringify(file)} leads out of the folder`,
      );
    },
  );

  it('is told in short where its fields nest deeper than a message can', () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    writeFileSync(join(folder, 'dataset_info.json'), `{"mine": {"file_name": ${deep}}}`);
    expect(() => describedDataset(folder, 'mine')).toThrow('file_name is a list of 1, expected a text');
  });

  it('may have a split of any name, which is no pattern', () => {
    expect(selectDataFiles(['train.json', 'a+.json'], { split: 'a+' })).toEqual(['a+.json']);
    expect(selectDataFiles(['train.json'], { split: 'train[:10' })).toEqual(['train.json']);
    expect(selectDataFiles([`${'a'.repeat(40)}.json`], { split: '(a+)+$' })).toHaveLength(1);
  });
});
