import type { Choices } from './choices.ts';
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
  type Animal,
} from './world.ts';

/** What an animal is covered with, as a sentence about all of them. */
function coverSentence({ plural, cover }: Animal): string {
  if (cover === 'skin') return `${capital(plural)} have bare skin.`;
  return `${capital(plural)} have ${cover}.`;
}

/** The sentences that are true of an animal, each standing for itself. */
function animalSentences(c: Choices, animal: Animal): string[] {
  const { name, plural, young, sound, home, food, size, colour, legs, moves, trait } = animal;
  const it = c.chance(50) ? 'It' : `The ${name}`;
  return [
    `${it} lives ${home}.`,
    c.pick([`${it} eats ${food}.`, `${it} likes to eat ${food}.`, `The food of the ${name} is ${food}.`]),
    c.pick([`A baby ${name} is called ${withArticle(young)}.`, `A young ${name} is ${withArticle(young)}.`]),
    c.pick([`${it} has ${legs === 0 ? 'no' : numbers[legs]} legs.`, coverSentence(animal)]),
    c.pick([`${it} can ${listed(moves)}.`, `${capital(plural)} can ${c.pick(moves)}.`]),
    `${it} ${trait}.`,
    c.pick([`It is ${colour}.`, `Its colour is ${colour}.`, `The ${name} is a ${size} animal.`]),
    ...(sound ? [c.pick([`${it} says ${sound}.`, `The sound of the ${name} is ${sound}.`])] : []),
  ];
}

/** A paragraph of three to six sentences on one animal. */
export function animalParagraph(c: Choices, animal: Animal = c.pick(animals)): string {
  const { name, plural, size, colour, home } = animal;
  const opening = c.pick([
    `The ${name} is a ${size} animal.`,
    `${capital(withArticle(name))} is a ${size} animal.`,
    `This is the ${name}. It is a ${size} ${colour} animal.`,
    `Look at the ${name}. It is ${colour}.`,
    `Many ${plural} live ${home}.`,
  ]);
  // Nothing is said twice in one paragraph.
  const told = (sentence: string) =>
    opening.includes(sentence) || (sentence.includes('animal.') && opening.includes('animal'));
  const others = animalSentences(c, animal).filter((sentence) => !told(sentence));
  return [opening, ...c.sample(others, c.between(3, 5))].join(' ');
}

/** Two animals compared by size, and where they live. */
function comparisonParagraph(c: Choices): string {
  const order = ['tiny', 'small', 'big', 'huge'];
  const [a, b] = c.sample(animals, 2);
  const difference = order.indexOf(a.size) - order.indexOf(b.size);
  if (difference === 0) {
    return `${capital(withArticle(a.name))} and ${withArticle(b.name)} are both ${a.size}. The ${a.name} lives ${a.home}. The ${b.name} lives ${b.home}.`;
  }
  const [bigger, smaller] = difference > 0 ? [a, b] : [b, a];
  const sentence = c.chance(50)
    ? `${capital(withArticle(bigger.name))} is bigger than ${withArticle(smaller.name)}.`
    : `${capital(withArticle(smaller.name))} is smaller than ${withArticle(bigger.name)}.`;
  return `${sentence} The ${bigger.name} is ${bigger.size} and the ${smaller.name} is ${smaller.size}.`;
}

/** Animals that share a home, a food or a way to move. */
function groupParagraph(c: Choices): string {
  const one = c.pick(animals);
  const group = c.pick([
    { members: animals.filter((other) => other.home === one.home), says: `live ${one.home}` },
    { members: animals.filter((other) => other.food === one.food), says: `eat ${one.food}` },
    { members: animals.filter((other) => other.moves.includes(one.moves[0])), says: `can ${one.moves[0]}` },
  ]);
  const names = c.sample(group.members, Math.min(group.members.length, c.between(2, 4))).map(({ plural }) => plural);
  if (names.length === 1) return `${capital(names[0])} ${group.says}.`;
  const tail = c.pick(['', ` They all ${group.says}.`, ` These animals ${group.says}.`]);
  return `${capital(listed(names))} ${group.says}.${tail}`;
}

function foodParagraph(c: Choices): string {
  const { name, plural, kind, colour, taste, grows } = c.pick(foods);
  const sentences = [
    `${capital(withArticle(name))} is a ${kind}.`,
    c.pick([`${capital(plural)} are ${colour}.`, `The ${name} is ${colour}.`]),
    c.pick([`${capital(plural)} taste ${taste}.`, `${capital(withArticle(name))} tastes ${taste}.`]),
    c.pick([`${capital(plural)} grow ${grows}.`, `It grows ${grows}.`]),
  ];
  const others = c
    .sample(
      foods.filter((food) => food.kind === kind && food.name !== name),
      2,
    )
    .map((food) => food.plural);
  const group = `${capital(listed([plural, ...others]))} are ${kind}s.`;
  return [sentences[0], ...c.sample(sentences.slice(1), c.between(1, 3)), ...(c.chance(40) ? [group] : [])].join(' ');
}

/** Two to four sentences on opposites. */
function oppositeParagraph(c: Choices): string {
  const pairs = c.sample(opposites, c.between(2, 4));
  return pairs
    .map(([left, right]) => {
      const [a, b] = c.chance(50) ? [left, right] : [right, left];
      return c.pick([
        `The opposite of ${a} is ${b}.`,
        `${capital(a)} and ${b} are opposites.`,
        `If it is not ${a}, it may be ${b}.`,
        `${capital(a)} is the opposite of ${b}.`,
      ]);
    })
    .join(' ');
}

function colourParagraph(c: Choices): string {
  return c
    .sample(colouredThings, c.between(2, 4))
    .map(({ thing, plural, colour }) => `${capital(thing)} ${plural ? 'are' : 'is'} ${colour}.`)
    .join(' ');
}

function jobParagraph(c: Choices): string {
  const { name, does, place, tool } = c.pick(jobs);
  const first = c.pick([`${capital(withArticle(name))} ${does}.`, `The ${name} is at work. The ${name} ${does}.`]);
  const rest = [
    c.pick([`The ${name} works ${place}.`, `You can find the ${name} ${place}.`]),
    c.pick([`The ${name} uses ${tool}.`, `${capital(withArticle(name))} needs ${tool}.`]),
    c.pick([`It is a good job.`, `People are glad that the ${name} is there.`, `The ${name} works hard.`]),
  ];
  return [first, ...c.sample(rest, c.between(1, 3))].join(' ');
}

function dayParagraph(c: Choices): string {
  const at = c.below(7);
  const [today, next, before] = [days[at], days[(at + 1) % 7], days[(at + 6) % 7]];
  const ending = c.pick([
    'There are seven days in a week.',
    'Saturday and Sunday are the weekend.',
    `Two days after ${today} it is ${days[(at + 2) % 7]}.`,
  ]);
  return c.pick([
    `After ${today} comes ${next}. Before ${today} comes ${before}. ${ending}`,
    `Today is ${today}. Tomorrow is ${next}. Yesterday was ${before}.`,
    `The day after ${today} is ${next}. ${ending}`,
    `The day before ${today} is ${before}. ${ending}`,
    `The days of the week are ${listed(days)}.`,
  ]);
}

function seasonParagraph(c: Choices): string {
  const at = c.below(4);
  const { name, weather, event, wear } = seasons[at];
  const next = seasons[(at + 1) % 4].name;
  const sentences = [
    `In ${name} ${event}.`,
    `In ${name} we wear ${wear}.`,
    `After ${name} comes ${next}.`,
    `The four seasons are ${listed(seasons.map((season) => season.name))}.`,
  ];
  return [`In ${name} it is ${weather}.`, ...c.sample(sentences, c.between(1, 3))].join(' ');
}

function countingParagraph(c: Choices): string {
  const from = c.between(0, 12);
  const to = from + c.between(2, 6);
  const row = numbers.slice(from, to + 1);
  const n = c.between(1, 18);
  return c.pick([
    `We count from ${numbers[from]} to ${numbers[to]}: ${row.join(', ')}.`,
    `${capital(row.join(', '))}. Now we have counted from ${numbers[from]} to ${numbers[to]}.`,
    `We count back from ${numbers[to]} to ${numbers[from]}: ${[...row].reverse().join(', ')}.`,
    `After ${numbers[n]} comes ${numbers[n + 1]}. Before ${numbers[n]} comes ${numbers[n - 1]}.`,
    `${capital(numbers[n + 1])} is more than ${numbers[n]}. ${capital(numbers[n - 1])} is less than ${numbers[n]}.`,
  ]);
}

/** One to three sums or differences with numbers up to twenty. */
function sumParagraph(c: Choices): string {
  const sentences = Array.from({ length: c.between(1, 3) }, () => {
    const a = c.between(0, 10);
    const b = c.between(0, 10);
    if (c.chance(65)) {
      return c.pick([
        `${capital(numbers[a])} plus ${numbers[b]} is ${numbers[a + b]}.`,
        `If you add ${numbers[a]} and ${numbers[b]}, you get ${numbers[a + b]}.`,
        `${capital(numbers[a])} and ${numbers[b]} make ${numbers[a + b]}.`,
      ]);
    }
    return c.pick([
      `${capital(numbers[a + b])} minus ${numbers[b]} is ${numbers[a]}.`,
      `If you take ${numbers[b]} from ${numbers[a + b]}, ${numbers[a]} ${a === 1 ? 'is' : 'are'} left.`,
    ]);
  });
  return sentences.join(' ');
}

function smallFacts(c: Choices): string {
  const place = c.pick(places);
  const other = c.pick(places.filter(({ verb }) => verb !== place.verb));
  const shape = c.pick(shapes);
  const [sense, second] = c.sample(senses, 2);
  return c.pick([
    `We ${place.verb} ${place.place}. We ${other.verb} ${other.place}.`,
    `${capital(place.place)} people ${place.verb}. ${capital(other.place)} they ${other.verb}.`,
    `We ${sense.verb} with our ${sense.part}. We ${second.verb} with our ${second.part}.`,
    `${capital(withArticle(shape.name))} has ${counted(shape.sides, 'side', 'sides')}. A circle is round and has no sides.`,
    `When somebody gives you a gift, you say thank you. When you want something, you say please.`,
    `When it rains, we take an umbrella. When the sun shines, we ${c.pick(['play outside', 'go to the park', 'wear a hat'])}.`,
    `Ice is cold and hard. When ice gets warm, it melts and turns into water.`,
    `A year has twelve months and four seasons. A week has seven days. A day has a morning and an evening.`,
  ]);
}

/** What an animal cannot do, and what it can. */
function abilityParagraph(c: Choices): string {
  const { name, plural, moves } = c.pick(animals);
  const missing = (['fly', 'swim', 'climb', 'run', 'jump'] as const).filter((move) => !moves.includes(move));
  const move = c.pick(missing);
  return c.pick([
    `${capital(withArticle(name))} cannot ${move}. It can ${listed(moves)}.`,
    `${capital(plural)} can ${listed(moves)}, but they cannot ${move}.`,
  ]);
}

/** An animal speaks of itself, and at the end says what it is. */
function selfPortrait(c: Choices): string {
  const { name, young, home, food, sound } = c.pick(animals);
  const clues = [`I live ${home}.`, `I eat ${food}.`, `My baby is called ${withArticle(young)}.`];
  if (sound) clues.push(`I say ${sound}.`);
  return [...c.sample(clues, c.between(2, 3)), `I am ${withArticle(name)}.`].join(' ');
}

/** One sentence, and the same in another form: past, plural, with a pronoun, negated. */
function formsParagraph(c: Choices): string {
  const { name, plural, size } = c.pick(animals);
  const { base, third, past, rest } = c.pick(verbs);
  const girl = c.chance(50);
  const who = c.pick(girl ? girls : boys);
  const other = c.pick(sizes.filter((one) => one !== size));
  return c.pick([
    `Today the ${name} ${third} ${rest}. Yesterday the ${name} ${past} ${rest}.`,
    `The ${name} ${third} ${rest}. The ${plural} ${base} ${rest}.`,
    `${who} ${third} ${rest}. ${girl ? 'She' : 'He'} ${third} ${rest}.`,
    `${who} ${past} ${rest}. ${girl ? 'She' : 'He'} ${past} ${rest}.`,
    `One ${name}, two ${plural}.`,
    `The ${name} is ${size}. The ${name} is not ${other}.`,
  ]);
}

/** Lists of words: how many they are, of what kind, and which one is of another kind. */
function groupsOfWords(c: Choices): string {
  const kinds = c.sample(
    [
      { what: 'animal', names: animals.map(({ name }) => name) },
      { what: 'food', names: foods.map(({ name }) => name) },
      { what: 'job', names: jobs.map(({ name }) => name) },
    ],
    2,
  );
  const [group, others] = kinds;
  const count = c.between(2, 6);
  const words = c.sample(group.names, count);
  const odd = c.pick(others.names);
  const mixed = c.sample([...words.slice(0, 3), odd], Math.min(count, 3) + 1);
  return c.pick([
    `Here is a list: ${words.join(', ')}. There are ${numbers[count]} ${group.what}s in the list.`,
    `${capital(listed(words))}: these are ${numbers[count]} ${group.what}s.`,
    `Look at the words ${mixed.join(', ')}. The word ${odd} does not fit. It is not ${withArticle(group.what)}.`,
    `${capital(withArticle(words[0]))} is ${withArticle(group.what)}. ${capital(withArticle(odd))} is ${withArticle(others.what)}.`,
    `${capital(c.pick(['red', 'blue', 'green', 'yellow', 'white', 'black', 'brown']))} is a colour. ${c.pick(days)} is a day.`,
  ]);
}

/** Three numbers in order, with the biggest and the smallest. */
function orderParagraph(c: Choices): string {
  const drawn = c.sample(
    Array.from({ length: 13 }, (_, i) => i),
    3,
  );
  const words = (list: readonly number[]) => list.map((n) => numbers[n]).join(', ');
  const sorted = [...drawn].sort((a, b) => a - b);
  return c.pick([
    `We put the numbers ${words(drawn)} in order: ${words(sorted)}.`,
    `Look at the numbers ${words(drawn)}. The biggest number is ${numbers[sorted[2]]}.`,
    `Look at the numbers ${words(drawn)}. The smallest number is ${numbers[sorted[0]]}.`,
  ]);
}

/** A few lines as in a notebook: a heading and a list. The only place of marks such as # and - in the corpus. */
function noteParagraph(c: Choices): string {
  const [title, items] = c.pick([
    ['Animals', c.sample(animals, 4).map(({ name }) => name)],
    ['Food to buy', c.sample(foods, 4).map(({ plural }) => plural)],
    ['People at work', c.sample(jobs, 3).map(({ name }) => name)],
    ['Days', days.slice(c.below(4))],
    ['Colours', c.sample(['red', 'blue', 'green', 'yellow', 'brown', 'white', 'black'], 4)],
  ] as [string, readonly string[]][]);
  const lines = c.pick([
    items.map((item) => `- ${item}`),
    items.map((item, i) => `${i + 1}. ${item}`),
    items.map((item, i) => `(${'abcdefg'[i]}) ${item}`),
  ]);
  return c.pick([`${'#'.repeat(c.between(1, 3))} ${title}\n${lines.join('\n')}`, `${title}:\n\n${lines.join('\n')}`]);
}

/** A paragraph of facts: what the world of world.ts is like. */
export function factParagraph(c: Choices): string {
  // Of one hundred paragraphs, so many of each kind.
  const shares: [number, (c: Choices) => string][] = [
    [22, animalParagraph],
    [3, abilityParagraph],
    [4, selfPortrait],
    [5, comparisonParagraph],
    [4, groupParagraph],
    [7, foodParagraph],
    [7, oppositeParagraph],
    [4, colourParagraph],
    [5, jobParagraph],
    [4, dayParagraph],
    [3, seasonParagraph],
    [5, countingParagraph],
    [9, sumParagraph],
    [5, formsParagraph],
    [5, groupsOfWords],
    [3, orderParagraph],
    [3, smallFacts],
    [2, noteParagraph],
  ];
  let roll = c.below(100);
  for (const [share, paragraph] of shares) if ((roll -= share) < 0) return paragraph(c);
  throw new Error('internal: the shares of factParagraph do not add up to 100');
}
