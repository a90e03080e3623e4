import type { Choices } from './choices.ts';
import { animals, boys, capital, counted, foods, girls, numbers, withArticle, type Animal } from './world.ts';

/** Somebody a story is about. */
export interface Hero {
  /** As a sentence names them after the opening: `Mia`, `the fox`. */
  name: string;
  /** `a girl named Mia`, `a small red fox`. */
  introduced: string;
  he: 'he' | 'she' | 'it';
  him: 'him' | 'her' | 'it';
  his: 'his' | 'her' | 'its';
}

const pronouns = {
  girl: { he: 'she', him: 'her', his: 'her' },
  boy: { he: 'he', him: 'him', his: 'his' },
  animal: { he: 'it', him: 'it', his: 'its' },
} as const;

const kinds = ['kind', 'brave', 'clever', 'quiet', 'happy', 'shy', 'cheerful', 'curious', 'gentle', 'busy'] as const;
const things = [
  'ball',
  'kite',
  'hat',
  'drum',
  'boat',
  'book',
  'bell',
  'scarf',
  'lamp',
  'basket',
  'doll',
  'key',
] as const;
const colours = ['red', 'blue', 'green', 'yellow', 'white', 'orange', 'purple', 'brown'] as const;
const settings = [
  'the park',
  'the garden',
  'the forest',
  'the lake',
  'the village',
  'the beach',
  'the hill',
  'the farm',
] as const;

/** A child of the given name. */
export function child(c: Choices, name: string, girl: boolean): Hero {
  const kind = c.pick(kinds);
  const noun = girl ? 'girl' : 'boy';
  const introduced = c.pick([
    `a ${noun} named ${name}`,
    `a little ${noun} named ${name}`,
    `${withArticle(kind)} ${noun} named ${name}`,
  ]);
  return { name, introduced, ...pronouns[girl ? 'girl' : 'boy'] };
}

/** An animal as a hero: `a brave fox`, then `the fox`. */
export function beast(c: Choices, animal: Animal): Hero {
  return { name: `the ${animal.name}`, introduced: `${withArticle(c.pick(kinds))} ${animal.name}`, ...pronouns.animal };
}

function anyHero(c: Choices): Hero {
  if (c.chance(25)) return beast(c, c.pick(animals));
  const girl = c.chance(50);
  return child(c, c.pick(girl ? girls : boys), girl);
}

const endings = [
  'They were happy.',
  'It was a good day.',
  'Everybody smiled.',
  'From that day on, they were good friends.',
  'Then they all went home.',
  'That night, they slept well.',
] as const;

function opening(c: Choices, { introduced, he }: Hero, place: string): string {
  const lived = c.pick([
    `Once upon a time, there was ${introduced}.`,
    `One day, ${introduced} went to ${place}.`,
    `There once was ${introduced}.`,
    `${capital(introduced)} lived near ${place}.`,
  ]);
  const weather = c.pick([
    'It was a sunny day.',
    'It was a cold morning.',
    'The sky was blue.',
    'The wind was soft.',
    '',
  ]);
  const liked = c.pick([
    `${capital(he)} liked to play near ${place}.`,
    `${capital(he)} loved to walk in the sun.`,
    `Every morning ${he} went to ${place}.`,
    '',
  ]);
  return [lived, ...c.sample([weather, liked], c.between(0, 2))].filter(Boolean).join(' ');
}

/** Something is lost, and a helper finds it. */
function lostThing(c: Choices, hero: Hero, helper: Hero, place: string): string[] {
  const thing = `${c.pick(colours)} ${c.pick(things)}`;
  const where = c.pick([
    'under a bush',
    'behind a tree',
    'near the water',
    'in the tall grass',
    'on a big rock',
    'under a bench',
  ]);
  return [
    c.pick([
      `${capital(hero.name)} had ${withArticle(thing)}.`,
      `${capital(hero.he)} had ${withArticle(thing)} and took it to ${place}.`,
    ]),
    c.pick([
      `But then the ${thing} was gone.`,
      `One day the ${thing} was lost.`,
      `Then ${hero.he} could not find the ${thing}.`,
    ]),
    c.pick([
      `${capital(hero.name)} was very sad.`,
      `${capital(hero.he)} looked and looked.`,
      `${capital(hero.he)} began to cry.`,
    ]),
    c.pick([
      `${capital(helper.introduced)} saw ${hero.him} and said, "I will help you."`,
      `"Do not cry," said ${helper.introduced}. "We can look together."`,
      `Then ${helper.introduced} came by and asked, "What is wrong?"`,
    ]),
    c.pick([
      `They found the ${thing} ${where}.`,
      `${capital(helper.name)} looked ${where} and there was the ${thing}.`,
      `At last they saw the ${thing} ${where}.`,
    ]),
    c.pick([`"Thank you," said ${hero.name}.`, `${capital(hero.name)} was so happy and said thank you.`]),
  ];
}

/** Somebody has food and shares it; the numbers are right. */
function sharedFood(c: Choices, hero: Hero, helper: Hero): string[] {
  const { name, plural } = c.pick(foods);
  const had = c.between(3, 9);
  const gave = c.between(1, had - 1);
  return [
    `${capital(hero.name)} had ${counted(had, name, plural)}.`,
    c.pick([
      `${capital(helper.introduced)} came by and was very hungry.`,
      `Then ${hero.he} met ${helper.introduced} who had no food.`,
    ]),
    c.pick([`"May I have some?" asked ${helper.name}.`, `"I am hungry," said ${helper.name}.`]),
    c.pick([
      `"Yes, you may," said ${hero.name}.`,
      `${capital(hero.name)} wanted to share.`,
      `"Here you are," said ${hero.name}.`,
    ]),
    `${capital(hero.he)} gave ${helper.name} ${counted(gave, name, plural)}.`,
    c.pick([
      `Now ${hero.name} had ${counted(had - gave, name, plural)}.`,
      `Then ${counted(had - gave, `${name} was`, `${plural} were`)} left.`,
    ]),
    c.pick(['They sat down and ate together.', 'It is good to share.', `${capital(helper.name)} said thank you.`]),
  ];
}

/** Somebody collects things; again the numbers are right. */
function collecting(c: Choices, hero: Hero, place: string): string[] {
  const [one, many] = c.pick([
    ['shell', 'shells'],
    ['stone', 'stones'],
    ['flower', 'flowers'],
    ['leaf', 'leaves'],
    ['nut', 'nuts'],
  ]);
  const first = c.between(1, 7);
  const more = c.between(1, 7);
  return [
    c.pick([
      `${capital(hero.name)} went to look for ${many} near ${place}.`,
      `${capital(hero.name)} wanted to find some ${many}.`,
    ]),
    `First ${hero.he} found ${counted(first, one, many)}.`,
    `Then ${hero.he} found ${numbers[more]} more.`,
    `Now ${hero.he} had ${counted(first + more, one, many)}.`,
    c.pick([
      `${capital(hero.he)} put them in a basket and took them home.`,
      `"How pretty they are!" said ${hero.name}.`,
      `${capital(hero.he)} showed them to a friend.`,
    ]),
  ];
}

/** Somebody is afraid or cannot do a thing, tries, and learns it. */
function learning(c: Choices, hero: Hero, helper: Hero): string[] {
  const skill = c.pick([
    'swim',
    'climb a tree',
    'ride a bike',
    'sing a song',
    'paint a picture',
    'bake bread',
    'count to ten',
    'fly a kite',
  ]);
  return [
    c.pick([`${capital(hero.name)} wanted to ${skill}.`, `More than anything, ${hero.name} wanted to ${skill}.`]),
    c.pick([`But it was very hard.`, `But ${hero.he} was afraid.`, `But ${hero.he} did not know how.`]),
    c.pick([
      `${capital(helper.introduced)} said, "Try again."`,
      `"I will show you," said ${helper.introduced}.`,
      `${capital(hero.he)} asked ${helper.introduced} for help.`,
    ]),
    c.pick([
      `${capital(hero.name)} tried and tried.`,
      `So ${hero.he} tried every day.`,
      `The first time was bad. The second time was better.`,
    ]),
    c.pick([`At last ${hero.he} could ${skill}.`, `One day ${hero.he} could ${skill}.`]),
    c.pick([`"I did it!" said ${hero.name}.`, `${capital(hero.name)} was very proud.`]),
  ];
}

/** An animal in need is helped; where it lives and what it eats are facts of the world. */
function animalInNeed(c: Choices, hero: Hero, animal: Animal): string[] {
  const { name, home, food, sound } = animal;
  return [
    c.pick([`${capital(hero.name)} saw a little ${name}.`, `On the path ${hero.he} met a little ${name}.`]),
    ...(sound && c.chance(50) ? [`"${capital(sound)}," said the little ${name}.`] : []),
    c.pick([`The ${name} was lost.`, `The ${name} was all alone.`, `The ${name} could not find its mother.`]),
    c.pick([
      `${capital(hero.name)} gave it some ${food}.`,
      `"Are you hungry?" asked ${hero.name}, and gave it some ${food}.`,
    ]),
    c.pick([
      `${capital(withArticle(name))} lives ${home}, so they looked for its mother there.`,
      `Then ${hero.he} took it home. It lived ${home}.`,
    ]),
    c.pick([`Its mother was so glad.`, `The little ${name} was safe.`, `The ${name} was happy again.`]),
  ];
}

/** A change of weather spoils the day, and then makes it better. */
function weatherDay(c: Choices, hero: Hero, helper: Hero, place: string): string[] {
  const [weather, answer] = c.pick([
    ['it began to rain', 'They jumped in the puddles'],
    ['it began to snow', 'They made a big snowman'],
    ['the wind began to blow', 'They let a kite fly high'],
    ['the sun became very hot', 'They sat in the shade of a tree'],
  ]);
  return [
    `${capital(hero.name)} and ${helper.introduced} wanted to play near ${place}.`,
    c.pick([`But then ${weather}.`, `Soon ${weather}.`]),
    c.pick([`"Oh no," said ${hero.name}. "What shall we do now?"`, `${capital(hero.name)} did not like it at all.`]),
    c.pick([`But ${helper.name} had an idea.`, `"I have an idea," said ${helper.name}.`]),
    `${answer}.`,
    c.pick([`They laughed and played until the evening.`, `It was more fun than before.`]),
  ];
}

/**
 * A tiny story: somebody, a wish or a trouble, what happened, and a happy end.
 *
 * @param hero whom it is about; drawn when not given
 * @param other the animal in it; drawn when not given
 */
export function story(c: Choices, hero: Hero = anyHero(c), other: Animal = c.pick(animals)): string {
  const place = c.pick(settings);
  const named = hero.name;
  const helper = c.chance(55) || named === `the ${other.name}` ? child(c, ...otherChild(c, named)) : beast(c, other);
  const plot = c.pick([
    () => lostThing(c, hero, helper, place),
    () => sharedFood(c, hero, helper),
    () => collecting(c, hero, place),
    () => learning(c, hero, helper),
    () => animalInNeed(c, hero, other),
    () => weatherDay(c, hero, helper, place),
  ])();
  const end = c.chance(70) ? [c.pick(endings)] : [];
  return [opening(c, hero, place), ...plot, ...end].join(' ');
}

/** A short story of four or five sentences on a child and an animal, as an answer to a request for it. */
export function shortStory(c: Choices, hero: Hero, animal: Animal): string {
  const plot = animalInNeed(c, hero, animal);
  return [`Once upon a time, there was ${hero.introduced}.`, ...plot, c.pick(endings.slice(0, 4))].join(' ');
}

function otherChild(c: Choices, taken: string): [string, boolean] {
  const girl = c.chance(50);
  return [c.pick((girl ? girls : boys).filter((name) => name !== taken)), girl];
}
