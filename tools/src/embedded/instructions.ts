import { createChoices, type Choices } from './choices.ts';
import { beast, child, shortStory } from './stories.ts';
import { animalParagraph } from './facts.ts';
import {
  animals,
  boys,
  capital,
  colouredThings,
  counted,
  days,
  foods,
  girls,
  jobs,
  listed,
  numbers,
  opposites,
  places,
  seasons,
  senses,
  shapes,
  sizes,
  verbs,
  withArticle,
} from './world.ts';

/** A record in Alpaca format. */
export interface AlpacaRecord {
  instruction: string;
  input: string;
  output: string;
}

type Task = (c: Choices) => AlpacaRecord;

const record = (instruction: string, output: string, input = ''): AlpacaRecord => ({ instruction, input, output });
const the = (name: string) => `The ${name}`;

const animalQuestion: Task = (c) => {
  const { name, plural, young, home, food, size, colour, legs, sound, trait } = c.pick(animals);
  const legCount = legs === 0 ? 'no' : numbers[legs];
  const options: [string[], string[]][] = [
    [[`Where does the ${name} live?`, `Tell me where ${plural} live.`], [`The ${name} lives ${home}.`]],
    [[`What does the ${name} eat?`, `What is the food of the ${name}?`], [`The ${name} eats ${food}.`]],
    [
      [`What is a baby ${name} called?`, `What do we call a young ${name}?`],
      [`A baby ${name} is called ${withArticle(young)}.`],
    ],
    [[`How many legs does ${withArticle(name)} have?`], [`${capital(withArticle(name))} has ${legCount} legs.`]],
    [[`What colour is the ${name}?`, `Tell me the colour of the ${name}.`], [`The ${name} is ${colour}.`]],
    [[`Is the ${name} big or small?`, `How big is the ${name}?`], [`The ${name} is a ${size} animal.`]],
    [[`Tell me one fact about the ${name}.`, `What do you know about the ${name}?`], [`The ${name} ${trait}.`]],
  ];
  if (sound)
    options.push([[`What sound does the ${name} make?`, `What does the ${name} say?`], [`The ${name} says ${sound}.`]]);
  const [questions, [answer]] = c.pick(options);
  return record(c.pick(questions), answer);
};

const describe: Task = (c) => {
  const animal = c.pick(animals);
  const instruction = c.pick([
    `Describe the ${animal.name}.`,
    `Write a few sentences about the ${animal.name}.`,
    `Tell me about the ${animal.name}.`,
  ]);
  return record(instruction, animalParagraph(c, animal));
};

const canIt: Task = (c) => {
  const { name, plural, moves } = c.pick(animals);
  const move = c.pick(['fly', 'swim', 'climb', 'run', 'jump'] as const);
  const asked = c.pick([`Can ${withArticle(name)} ${move}?`, `Is it true that ${plural} can ${move}?`]);
  if (moves.includes(move)) return record(asked, `Yes, ${withArticle(name)} can ${move}.`);
  return record(asked, `No, ${withArticle(name)} cannot ${move}. It can ${listed(moves)}.`);
};

const riddle: Task = (c) => {
  // The young, the home and the trait together fit one animal only.
  const animal = c.pick(animals);
  const clues = [`I live ${animal.home}.`, `My baby is called ${withArticle(animal.young)}.`];
  const last = animal.sound ? `I say ${animal.sound}.` : `I eat ${animal.food}.`;
  const matches = animals.filter(
    (other) =>
      other.home === animal.home &&
      other.young === animal.young &&
      (animal.sound ? other.sound === animal.sound : other.food === animal.food),
  );
  if (matches.length > 1) return riddle(c);
  const input = [...c.sample(clues, 2), last].join(' ');
  return record(
    c.pick(['Which animal am I?', 'Solve the riddle.', 'Guess the animal.']),
    `You are ${withArticle(animal.name)}.`,
    input,
  );
};

const compare: Task = (c) => {
  const rank = ({ size }: { size: (typeof sizes)[number] }) => sizes.indexOf(size);
  const [a, b] = c.sample(animals, 2);
  if (rank(a) === rank(b)) return compare(c);
  const [bigger, smaller] = rank(a) > rank(b) ? [a, b] : [b, a];
  return c.chance(50)
    ? record(
        `Which is bigger, ${withArticle(a.name)} or ${withArticle(b.name)}?`,
        `${capital(withArticle(bigger.name))} is bigger than ${withArticle(smaller.name)}.`,
      )
    : record(
        `Which is smaller, ${withArticle(a.name)} or ${withArticle(b.name)}?`,
        `${capital(withArticle(smaller.name))} is smaller than ${withArticle(bigger.name)}.`,
      );
};

const listAnimals: Task = (c) => {
  const one = c.pick(animals);
  const [members, says] = c.pick([
    [animals.filter(({ home }) => home === one.home), `that live ${one.home}`],
    [animals.filter(({ food }) => food === one.food), `that eat ${one.food}`],
    [animals.filter(({ moves }) => moves.includes('fly')), 'that can fly'],
    [animals.filter(({ moves }) => moves.includes('swim')), 'that can swim'],
    [animals.filter(({ cover }) => cover === 'feathers'), 'with feathers'],
  ] as const);
  const count = Math.min(members.length, c.between(2, 3));
  if (count < 2) return listAnimals(c);
  const names = c.sample(members, count).map(({ name }) => withArticle(name));
  const instruction = c.pick([`Name ${numbers[count]} animals ${says}.`, `List ${numbers[count]} animals ${says}.`]);
  return record(instruction, `${capital(listed(names))}.`);
};

const listFood: Task = (c) => {
  const kind = c.pick(['fruit', 'vegetable'] as const);
  const count = c.between(2, 4);
  const members = foods.filter((food) => food.kind === kind);
  const names = c.sample(members, count).map(({ plural }) => plural);
  const instruction = c.pick([
    `Name ${numbers[count]} ${kind}s.`,
    `List ${numbers[count]} ${kind}s.`,
    `Give me ${numbers[count]} ${kind}s.`,
  ]);
  return record(instruction, `${capital(listed(names))}.`);
};

const opposite: Task = (c) => {
  const pair = c.pick(opposites);
  const [word, answer] = c.chance(50) ? pair : [pair[1], pair[0]];
  const other = c.pick(opposites.filter((one) => one !== pair));
  return c.pick([
    record(`What is the opposite of ${word}?`, `The opposite of ${word} is ${answer}.`),
    record(
      c.pick(['Give the opposite of the word.', 'What is the opposite of this word?']),
      `The opposite of ${word} is ${answer}.`,
      word,
    ),
    record('Are these two words opposites?', `Yes, ${word} is the opposite of ${answer}.`, `${word}, ${answer}`),
    record('Are these two words opposites?', `No, the opposite of ${word} is ${answer}.`, `${word}, ${c.pick(other)}`),
  ]);
};

const colour: Task = (c) => {
  if (c.chance(40)) {
    const { plural, colour } = c.pick(foods);
    return record(`What colour are ${plural}?`, `${capital(plural)} are ${colour}.`);
  }
  const { thing, plural, colour } = c.pick(colouredThings);
  const is = plural ? 'are' : 'is';
  const answer = `${capital(thing)} ${is} ${colour}.`;
  return c.pick([
    record(`What colour ${is} ${thing}?`, answer),
    record('Complete the sentence.', answer, `${capital(thing)} ${is}`),
  ]);
};

const classify: Task = (c) => {
  if (c.chance(50)) {
    const { name, kind } = c.pick(foods);
    const answer = `${capital(withArticle(name))} is a ${kind}.`;
    return c.pick([
      record(`Is ${withArticle(name)} a fruit or a vegetable?`, answer),
      record('Is this a fruit or a vegetable?', answer, name),
    ]);
  }
  const [word, kind] = c.pick([
    () => [c.pick(animals).name, 'an animal'],
    () => [c.pick(foods).name, 'a food'],
    () => [c.pick(jobs).name, 'a job'],
    () => [c.pick(days), 'a day'],
    () => [c.pick(['red', 'blue', 'green', 'yellow', 'white', 'black', 'brown']), 'a colour'],
  ])();
  const instruction = c.pick([
    'Is this an animal, a food, a job, a day or a colour?',
    'Sort the word: animal, food, job, day or colour.',
  ]);
  const subject =
    kind === 'an animal' || kind === 'a food' || kind === 'a job' ? capital(withArticle(word)) : capital(word);
  return record(instruction, `${subject} is ${kind}.`, word);
};

const oddOneOut: Task = (c) => {
  const groups = [
    [c.sample(animals, 3).map(({ name }) => name), 'an animal'],
    [c.sample(foods, 3).map(({ name }) => name), 'a food'],
    [c.sample(jobs, 3).map(({ name }) => name), 'a job'],
  ] as const;
  const [group, other] = c.sample(groups, 2);
  const odd = other[0][0];
  const input = c.sample([...group[0], odd], 4).join(', ');
  const instruction = c.pick(['Which word does not fit?', 'Find the odd one out.']);
  return record(instruction, `The word ${odd} does not fit. It is not ${group[1]}.`, input);
};

const complete: Task = (c) => {
  const { name, home, food, sound, young } = c.pick(animals);
  const { name: who, does, place } = c.pick(jobs);
  const [start, end] = c.pick([
    [`The ${name} lives`, home],
    [`The ${name} eats`, food],
    [`The ${name} says`, sound ?? 'nothing'],
    [`A baby ${name} is called`, withArticle(young)],
    [capital(withArticle(who)), does],
    [`The ${who} works`, place],
  ]);
  return record(c.pick(['Complete the sentence.', 'Finish this sentence.']), `${start} ${end}.`, start);
};

const rewrite: Task = (c) => {
  const { name, plural, size } = c.pick(animals);
  const { base, third, past, rest } = c.pick(verbs);
  const girl = c.chance(50);
  const who = c.pick(girl ? girls : boys);
  const present = `The ${name} ${third} ${rest}.`;
  return c.pick([
    record(
      c.pick(['Write the sentence in the past.', 'Say this as if it happened yesterday.']),
      `The ${name} ${past} ${rest}.`,
      present,
    ),
    record(
      c.pick(['Write the sentence about many animals.', 'Use the plural.']),
      `${the(plural)} ${base} ${rest}.`,
      present,
    ),
    record(
      c.pick(['Use he or she.', 'Use a short word for the name.']),
      `${girl ? 'She' : 'He'} ${third} ${rest}.`,
      `${who} ${third} ${rest}.`,
    ),
    record(
      c.pick(['Make the sentence negative.', 'Say that it is not so.']),
      `The ${name} is not ${size}.`,
      `The ${name} is ${size}.`,
    ),
    record(
      c.pick(['Turn this into a question.', 'Make a question.']),
      `Is the ${name} ${size}?`,
      `The ${name} is ${size}.`,
    ),
    record(c.pick(['What is the plural of this word?', 'Give the plural.']), `One ${name}, two ${plural}.`, name),
  ]);
};

const countWords: Task = (c) => {
  const count = c.between(2, 6);
  const [words, what] = c.pick([
    [c.sample(animals, count).map(({ name }) => name), 'animals'],
    [c.sample(foods, count).map(({ plural }) => plural), 'foods'],
  ] as const);
  return record(
    c.pick([`How many ${what} are in the list?`, `Count the ${what}.`]),
    `There are ${numbers[count]} ${what}.`,
    words.join(', '),
  );
};

const counting: Task = (c) => {
  const from = c.between(0, 12);
  const to = from + c.between(2, 6);
  const row = numbers.slice(from, to + 1);
  const n = c.between(1, 18);
  return c.pick([
    record(`Count from ${numbers[from]} to ${numbers[to]}.`, `${capital(row.join(', '))}.`),
    record(`Count back from ${numbers[to]} to ${numbers[from]}.`, `${capital([...row].reverse().join(', '))}.`),
    record(`Which number comes after ${numbers[n]}?`, `After ${numbers[n]} comes ${numbers[n + 1]}.`),
    record(`Which number comes before ${numbers[n]}?`, `Before ${numbers[n]} comes ${numbers[n - 1]}.`),
  ]);
};

const sum: Task = (c) => {
  const a = c.between(0, 10);
  const b = c.between(0, 10);
  if (c.chance(60)) {
    const answer = `${capital(numbers[a])} plus ${numbers[b]} is ${numbers[a + b]}.`;
    return record(
      c.pick([`What is ${numbers[a]} plus ${numbers[b]}?`, `Add ${numbers[a]} and ${numbers[b]}.`]),
      answer,
    );
  }
  const answer = `${capital(numbers[a + b])} minus ${numbers[b]} is ${numbers[a]}.`;
  return record(
    c.pick([`What is ${numbers[a + b]} minus ${numbers[b]}?`, `Take ${numbers[b]} from ${numbers[a + b]}.`]),
    answer,
  );
};

const wordProblem: Task = (c) => {
  const girl = c.chance(50);
  const name = c.pick(girl ? girls : boys);
  const he = girl ? 'she' : 'he';
  const { name: one, plural } = c.pick(foods);
  const had = c.between(2, 9);
  const change = c.between(1, 6);
  const instruction = `How many ${plural} does ${name} have now?`;
  if (change < had && c.chance(50)) {
    const input = `${name} had ${counted(had, one, plural)}. Then ${he} gave away ${numbers[change]}.`;
    return record(instruction, `Now ${name} has ${counted(had - change, one, plural)}.`, input);
  }
  const input = `${name} had ${counted(had, one, plural)}. Then ${he} found ${numbers[change]} more.`;
  return record(instruction, `Now ${name} has ${counted(had + change, one, plural)}.`, input);
};

const jobQuestion: Task = (c) => {
  const { name, does, place, tool } = c.pick(jobs);
  return c.pick([
    record(`Who ${does}?`, `${capital(withArticle(name))} ${does}.`),
    record(
      c.pick([`What does ${withArticle(name)} do?`, `What is the job of the ${name}?`]),
      `${capital(withArticle(name))} ${does}.`,
    ),
    record(`Where does the ${name} work?`, `The ${name} works ${place}.`),
    record(`What does the ${name} use?`, `The ${name} uses ${tool}.`),
  ]);
};

const dayQuestion: Task = (c) => {
  const at = c.below(7);
  const [day, next, before] = [days[at], days[(at + 1) % 7], days[(at + 6) % 7]];
  return c.pick([
    record(`Which day comes after ${day}?`, `After ${day} comes ${next}.`),
    record(`Which day comes before ${day}?`, `Before ${day} comes ${before}.`),
    record('What day is tomorrow?', `Tomorrow is ${next}.`, `Today is ${day}.`),
    record('What day was yesterday?', `Yesterday was ${before}.`, `Today is ${day}.`),
  ]);
};

const seasonQuestion: Task = (c) => {
  const at = c.below(4);
  const { name, weather, event, wear } = seasons[at];
  return c.pick([
    record(
      c.pick([`What is the weather like in ${name}?`, `How is the weather in ${name}?`]),
      `In ${name} it is ${weather}.`,
    ),
    record(c.pick([`What happens in ${name}?`, `Tell me what happens in ${name}.`]), `In ${name} ${event}.`),
    record(`What do we wear in ${name}?`, `In ${name} we wear ${wear}.`),
    record(`Which season comes after ${name}?`, `After ${name} comes ${seasons[(at + 1) % 4].name}.`),
  ]);
};

const everyday: Task = (c) => {
  const { place, verb } = c.pick(places);
  const { part, verb: sense } = c.pick(senses);
  const { name, sides } = c.pick(shapes);
  return c.pick([
    record(c.pick([`Where do we ${verb}?`, `Where do people ${verb}?`]), `We ${verb} ${place}.`),
    record(c.pick([`What do we do ${place}?`, `What do people do ${place}?`]), `We ${verb} ${place}.`),
    record(`What do we ${sense} with?`, `We ${sense} with our ${part}.`),
    record(
      `How many sides does ${withArticle(name)} have?`,
      `${capital(withArticle(name))} has ${numbers[sides]} sides.`,
    ),
  ]);
};

const foodQuestion: Task = (c) => {
  const { name, plural, taste, grows } = c.pick(foods);
  return c.pick([
    record(c.pick([`How do ${plural} taste?`, `What do ${plural} taste like?`]), `${capital(plural)} taste ${taste}.`),
    record(
      c.pick([`Where do ${plural} grow?`, `Where does ${withArticle(name)} grow?`]),
      `${capital(plural)} grow ${grows}.`,
    ),
  ]);
};

const order: Task = (c) => {
  const drawn = c.sample(
    Array.from({ length: 13 }, (_, i) => i),
    3,
  );
  const sorted = [...drawn].sort((a, b) => a - b);
  const input = drawn.map((n) => numbers[n]).join(', ');
  const words = sorted.map((n) => numbers[n]);
  return c.pick([
    record('Put the numbers in order.', `${capital(words.join(', '))}.`, input),
    record('Which number is the biggest?', `The biggest number is ${words[2]}.`, input),
    record('Which number is the smallest?', `The smallest number is ${words[0]}.`, input),
  ]);
};

const storyRequest: Task = (c) => {
  const animal = c.pick(animals);
  if (c.chance(15)) {
    const hero = c.pick(animals.filter(({ name }) => name !== animal.name));
    return record(
      `Write a short story about ${withArticle(hero.name)} and ${withArticle(animal.name)}.`,
      shortStory(c, beast(c, hero), animal),
    );
  }
  const girl = c.chance(50);
  const name = c.pick(girl ? girls : boys);
  const noun = girl ? 'girl' : 'boy';
  const instruction = c.pick([
    `Write a short story about a ${noun} named ${name} and ${withArticle(animal.name)}.`,
    `Tell me a story about ${name} and ${withArticle(animal.name)}.`,
    `Write a tiny story about ${name}, who helps ${withArticle(animal.name)}.`,
  ]);
  return record(instruction, shortStory(c, child(c, name, girl), animal));
};

/** The kinds of task, each with its share of the records. */
const tasks: readonly (readonly [Task, number])[] = [
  [animalQuestion, 16],
  [describe, 6],
  [canIt, 6],
  [riddle, 3],
  [compare, 5],
  [listAnimals, 4],
  [listFood, 3],
  [opposite, 7],
  [colour, 5],
  [classify, 6],
  [oddOneOut, 4],
  [complete, 6],
  [rewrite, 8],
  [countWords, 4],
  [counting, 5],
  [sum, 8],
  [wordProblem, 5],
  [jobQuestion, 5],
  [dayQuestion, 3],
  [seasonQuestion, 2],
  [everyday, 3],
  [foodQuestion, 3],
  [order, 4],
  [storyRequest, 8],
];

/**
 * `count` different records in Alpaca format, all kinds of task mixed by their shares. (seed, count) alone decide them.
 */
export function instructionRecords(seed: number, count: number): AlpacaRecord[] {
  const c = createChoices(seed);
  const deck = tasks.flatMap(([task, share]) => Array.from({ length: share }, () => task));
  const records = new Map<string, AlpacaRecord>();
  while (records.size < count) {
    const made = c.pick(deck)(c);
    const key = `${made.instruction}\n${made.input}`;
    if (!records.has(key)) records.set(key, made);
  }
  return [...records.values()];
}
