/** The closed world that the embedded model reads about in pretraining and answers questions about after fine-tuning. */

export interface Animal {
  name: string;
  plural: string;
  young: string;
  /** What it says, where it says anything. */
  sound?: string;
  /** With its preposition: `on a farm`. */
  home: string;
  food: string;
  size: 'tiny' | 'small' | 'big' | 'huge';
  colour: string;
  cover: 'fur' | 'feathers' | 'scales' | 'skin' | 'wool' | 'a shell';
  legs: 0 | 2 | 4 | 6 | 8;
  moves: readonly ('run' | 'fly' | 'swim' | 'climb' | 'jump' | 'walk')[];
  trait: string;
}

const animal = (
  [name, plural, young]: [string, string, string],
  sound: string | undefined,
  home: string,
  food: string,
  [size, colour, cover]: [Animal['size'], string, Animal['cover']],
  legs: Animal['legs'],
  moves: Animal['moves'],
  trait: string,
): Animal => ({
  name,
  plural,
  young,
  ...(sound ? { sound } : {}),
  home,
  food,
  size,
  colour,
  cover,
  legs,
  moves,
  trait,
});

/** A table: one animal a line. */
// prettier-ignore
export const animals: readonly Animal[] = [
  animal(['cow', 'cows', 'calf'], 'moo', 'on a farm', 'grass', ['big', 'brown', 'fur'], 4, ['walk', 'run'], 'gives us milk'),
  animal(['hen', 'hens', 'chick'], 'cluck', 'on a farm', 'corn', ['small', 'red', 'feathers'], 2, ['walk', 'run'], 'lays eggs'),
  animal(['sheep', 'sheep', 'lamb'], 'baa', 'on a farm', 'grass', ['big', 'white', 'wool'], 4, ['walk', 'run'], 'gives us wool'),
  animal(['pig', 'pigs', 'piglet'], 'oink', 'on a farm', 'corn', ['big', 'pink', 'skin'], 4, ['walk', 'run'], 'loves mud'),
  animal(['horse', 'horses', 'foal'], 'neigh', 'on a farm', 'hay', ['big', 'brown', 'fur'], 4, ['run', 'jump'], 'can carry a rider'),
  animal(['goat', 'goats', 'kid'], 'maa', 'on a farm', 'leaves', ['big', 'white', 'fur'], 4, ['run', 'climb', 'jump'], 'climbs on rocks'),
  animal(['duck', 'ducks', 'duckling'], 'quack', 'on a pond', 'weeds', ['small', 'white', 'feathers'], 2, ['swim', 'fly'], 'swims in the rain'),
  animal(['swan', 'swans', 'cygnet'], undefined, 'on a lake', 'weeds', ['big', 'white', 'feathers'], 2, ['swim', 'fly'], 'has a long neck'),
  animal(['frog', 'frogs', 'tadpole'], 'croak', 'in a pond', 'flies', ['small', 'green', 'skin'], 4, ['jump', 'swim'], 'has a long tongue'),
  animal(['fish', 'fish', 'fry'], undefined, 'in a river', 'weeds', ['small', 'silver', 'scales'], 0, ['swim'], 'breathes under water'),
  animal(['dog', 'dogs', 'puppy'], 'woof', 'in a house', 'meat', ['small', 'brown', 'fur'], 4, ['run', 'swim', 'jump'], 'guards the house'),
  animal(['cat', 'cats', 'kitten'], 'meow', 'in a house', 'meat', ['small', 'grey', 'fur'], 4, ['run', 'climb', 'jump'], 'sleeps all day'),
  animal(['mouse', 'mice', 'pup'], 'squeak', 'in a hole', 'cheese', ['tiny', 'grey', 'fur'], 4, ['run', 'climb'], 'hides from the cat'),
  animal(['rabbit', 'rabbits', 'kit'], undefined, 'in a hole', 'carrots', ['small', 'grey', 'fur'], 4, ['run', 'jump'], 'has long ears'),
  animal(['fox', 'foxes', 'cub'], 'yip', 'in the forest', 'meat', ['small', 'red', 'fur'], 4, ['run', 'jump'], 'is very clever'),
  animal(['wolf', 'wolves', 'cub'], 'howl', 'in the forest', 'meat', ['big', 'grey', 'fur'], 4, ['run'], 'lives in a pack'),
  animal(['bear', 'bears', 'cub'], 'growl', 'in the forest', 'honey', ['huge', 'brown', 'fur'], 4, ['run', 'climb', 'swim'], 'sleeps in winter'),
  animal(['deer', 'deer', 'fawn'], undefined, 'in the forest', 'leaves', ['big', 'brown', 'fur'], 4, ['run', 'jump'], 'is very shy'),
  animal(['owl', 'owls', 'owlet'], 'hoot', 'in a tree', 'mice', ['small', 'brown', 'feathers'], 2, ['fly'], 'is awake at night'),
  animal(['squirrel', 'squirrels', 'kit'], undefined, 'in a tree', 'nuts', ['small', 'red', 'fur'], 4, ['run', 'climb', 'jump'], 'hides nuts for winter'),
  animal(['robin', 'robins', 'chick'], 'tweet', 'in a tree', 'worms', ['tiny', 'red', 'feathers'], 2, ['fly'], 'sings in the morning'),
  animal(['crow', 'crows', 'chick'], 'caw', 'in a tree', 'seeds', ['small', 'black', 'feathers'], 2, ['fly'], 'likes shiny things'),
  animal(['lion', 'lions', 'cub'], 'roar', 'on the plains', 'meat', ['huge', 'yellow', 'fur'], 4, ['run', 'jump'], 'is very brave'),
  animal(['zebra', 'zebras', 'foal'], undefined, 'on the plains', 'grass', ['big', 'black and white', 'fur'], 4, ['run'], 'has stripes'),
  animal(['elephant', 'elephants', 'calf'], 'trumpet', 'on the plains', 'leaves', ['huge', 'grey', 'skin'], 4, ['walk', 'swim'], 'has a long trunk'),
  animal(['giraffe', 'giraffes', 'calf'], undefined, 'on the plains', 'leaves', ['huge', 'yellow', 'fur'], 4, ['run'], 'has a very long neck'),
  animal(['monkey', 'monkeys', 'infant'], 'chatter', 'in the jungle', 'bananas', ['small', 'brown', 'fur'], 4, ['climb', 'jump'], 'swings from tree to tree'),
  animal(['tiger', 'tigers', 'cub'], 'roar', 'in the jungle', 'meat', ['huge', 'orange', 'fur'], 4, ['run', 'swim', 'climb'], 'has stripes'),
  animal(['parrot', 'parrots', 'chick'], 'squawk', 'in the jungle', 'seeds', ['small', 'green', 'feathers'], 2, ['fly', 'climb'], 'can learn words'),
  animal(['snake', 'snakes', 'hatchling'], 'hiss', 'in the jungle', 'mice', ['small', 'green', 'scales'], 0, ['climb', 'swim'], 'has no legs'),
  animal(['whale', 'whales', 'calf'], 'sing', 'in the sea', 'tiny fish', ['huge', 'blue', 'skin'], 0, ['swim'], 'is bigger than a bus'),
  animal(['dolphin', 'dolphins', 'calf'], 'click', 'in the sea', 'fish', ['big', 'grey', 'skin'], 0, ['swim', 'jump'], 'jumps over the waves'),
  animal(['crab', 'crabs', 'larva'], undefined, 'by the sea', 'weeds', ['small', 'red', 'a shell'], 8, ['walk', 'swim'], 'walks sideways'),
  animal(['penguin', 'penguins', 'chick'], 'honk', 'on the ice', 'fish', ['small', 'black and white', 'feathers'], 2, ['walk', 'swim'], 'cannot fly'),
  animal(['seal', 'seals', 'pup'], 'bark', 'on the ice', 'fish', ['big', 'grey', 'fur'], 0, ['swim'], 'loves cold water'),
  animal(['bee', 'bees', 'grub'], 'buzz', 'in a garden', 'honey', ['tiny', 'yellow', 'fur'], 6, ['fly', 'walk'], 'makes honey'),
  animal(['ant', 'ants', 'grub'], undefined, 'in a garden', 'crumbs', ['tiny', 'black', 'skin'], 6, ['walk', 'climb'], 'works very hard'),
  animal(['spider', 'spiders', 'spiderling'], undefined, 'in a garden', 'flies', ['tiny', 'black', 'skin'], 8, ['walk', 'climb'], 'spins a web'),
  animal(['turtle', 'turtles', 'hatchling'], undefined, 'on a beach', 'weeds', ['small', 'green', 'a shell'], 4, ['walk', 'swim'], 'is very slow'),
];

export const sizes = ['tiny', 'small', 'big', 'huge'] as const;

export interface Food {
  name: string;
  plural: string;
  kind: 'fruit' | 'vegetable';
  colour: string;
  taste: string;
  grows: string;
}

const food = (
  name: string,
  plural: string,
  kind: Food['kind'],
  colour: string,
  taste: string,
  grows: string,
): Food => ({
  name,
  plural,
  kind,
  colour,
  taste,
  grows,
});

export const foods: readonly Food[] = [
  food('apple', 'apples', 'fruit', 'red', 'sweet', 'on a tree'),
  food('pear', 'pears', 'fruit', 'green', 'sweet', 'on a tree'),
  food('plum', 'plums', 'fruit', 'purple', 'sweet', 'on a tree'),
  food('cherry', 'cherries', 'fruit', 'red', 'sweet', 'on a tree'),
  food('orange', 'oranges', 'fruit', 'orange', 'juicy', 'on a tree'),
  food('lemon', 'lemons', 'fruit', 'yellow', 'sour', 'on a tree'),
  food('banana', 'bananas', 'fruit', 'yellow', 'soft and sweet', 'on a tree'),
  food('peach', 'peaches', 'fruit', 'orange', 'juicy', 'on a tree'),
  food('grape', 'grapes', 'fruit', 'green', 'juicy', 'on a vine'),
  food('strawberry', 'strawberries', 'fruit', 'red', 'sweet', 'near the ground'),
  food('carrot', 'carrots', 'vegetable', 'orange', 'crunchy', 'under the ground'),
  food('potato', 'potatoes', 'vegetable', 'brown', 'soft when cooked', 'under the ground'),
  food('onion', 'onions', 'vegetable', 'white', 'strong', 'under the ground'),
  food('radish', 'radishes', 'vegetable', 'red', 'sharp', 'under the ground'),
  food('cabbage', 'cabbages', 'vegetable', 'green', 'fresh', 'on the ground'),
  food('pumpkin', 'pumpkins', 'vegetable', 'orange', 'soft when cooked', 'on the ground'),
  food('cucumber', 'cucumbers', 'vegetable', 'green', 'fresh', 'on a vine'),
  food('pea', 'peas', 'vegetable', 'green', 'sweet', 'in a pod'),
];

/** Pairs of adjectives or adverbs. */
export const opposites: readonly (readonly [string, string])[] = [
  ['hot', 'cold'],
  ['big', 'small'],
  ['fast', 'slow'],
  ['happy', 'sad'],
  ['up', 'down'],
  ['day', 'night'],
  ['old', 'young'],
  ['full', 'empty'],
  ['open', 'closed'],
  ['loud', 'quiet'],
  ['hard', 'soft'],
  ['wet', 'dry'],
  ['clean', 'dirty'],
  ['light', 'dark'],
  ['tall', 'short'],
  ['strong', 'weak'],
  ['early', 'late'],
  ['near', 'far'],
  ['first', 'last'],
  ['good', 'bad'],
  ['rich', 'poor'],
  ['thick', 'thin'],
  ['brave', 'afraid'],
  ['left', 'right'],
  ['inside', 'outside'],
  ['high', 'low'],
  ['wide', 'narrow'],
  ['sweet', 'sour'],
  ['rough', 'smooth'],
  ['awake', 'asleep'],
  ['lost', 'found'],
  ['over', 'under'],
];

/** Things and the colour that everybody knows them by; `the` where there is only one. */
export const colouredThings: readonly { thing: string; plural: boolean; colour: string }[] = [
  { thing: 'the sky', plural: false, colour: 'blue' },
  { thing: 'the sea', plural: false, colour: 'blue' },
  { thing: 'the sun', plural: false, colour: 'yellow' },
  { thing: 'grass', plural: false, colour: 'green' },
  { thing: 'snow', plural: false, colour: 'white' },
  { thing: 'milk', plural: false, colour: 'white' },
  { thing: 'coal', plural: false, colour: 'black' },
  { thing: 'the night', plural: false, colour: 'black' },
  { thing: 'chocolate', plural: false, colour: 'brown' },
  { thing: 'wood', plural: false, colour: 'brown' },
  { thing: 'fire', plural: false, colour: 'orange' },
  { thing: 'butter', plural: false, colour: 'yellow' },
  { thing: 'a rain cloud', plural: false, colour: 'grey' },
  { thing: 'a fire engine', plural: false, colour: 'red' },
  { thing: 'leaves', plural: true, colour: 'green' },
  { thing: 'roses', plural: true, colour: 'red' },
];

export interface Job {
  name: string;
  /** `bakes bread`. */
  does: string;
  place: string;
  tool: string;
}

const job = (name: string, does: string, place: string, tool: string): Job => ({ name, does, place, tool });

export const jobs: readonly Job[] = [
  job('baker', 'bakes bread', 'in a bakery', 'an oven'),
  job('teacher', 'helps children learn', 'in a school', 'a board'),
  job('doctor', 'helps sick people', 'in a hospital', 'a thermometer'),
  job('farmer', 'grows our food', 'on a farm', 'a tractor'),
  job('cook', 'makes dinner', 'in a kitchen', 'a pot'),
  job('painter', 'paints pictures', 'in a studio', 'a brush'),
  job('builder', 'builds houses', 'in the town', 'a hammer'),
  job('gardener', 'looks after plants', 'in a garden', 'a spade'),
  job('sailor', 'sails ships', 'on the sea', 'a rope'),
  job('fisher', 'catches fish', 'on a lake', 'a net'),
  job('tailor', 'makes clothes', 'in a shop', 'a needle'),
  job('driver', 'drives a bus', 'on the road', 'a wheel'),
  job('pilot', 'flies a plane', 'in the sky', 'a map'),
  job('vet', 'helps sick animals', 'in a clinic', 'a soft bandage'),
  job('singer', 'sings songs', 'on a stage', 'a microphone'),
  job('writer', 'writes books', 'at a desk', 'a pen'),
];

export const days = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'] as const;

export const seasons: readonly { name: string; weather: string; event: string; wear: string }[] = [
  { name: 'spring', weather: 'mild', event: 'the flowers begin to grow', wear: 'a light coat' },
  { name: 'summer', weather: 'hot', event: 'the days are long', wear: 'a sun hat' },
  { name: 'autumn', weather: 'windy', event: 'the leaves fall from the trees', wear: 'a scarf' },
  { name: 'winter', weather: 'cold', event: 'the snow covers the ground', wear: 'a thick coat' },
];

/** Rooms and places, and what people do there. */
export const places: readonly { place: string; verb: string }[] = [
  { place: 'in the kitchen', verb: 'cook' },
  { place: 'in the bedroom', verb: 'sleep' },
  { place: 'in the bathroom', verb: 'wash' },
  { place: 'in the garden', verb: 'grow flowers' },
  { place: 'at school', verb: 'learn' },
  { place: 'in the library', verb: 'borrow books' },
  { place: 'at the shop', verb: 'buy food' },
  { place: 'at the park', verb: 'play' },
  { place: 'at the pool', verb: 'swim' },
  { place: 'at the station', verb: 'wait for the train' },
];

export const senses: readonly { part: string; verb: string }[] = [
  { part: 'eyes', verb: 'see' },
  { part: 'ears', verb: 'hear' },
  { part: 'hands', verb: 'hold things' },
  { part: 'legs', verb: 'walk' },
  { part: 'teeth', verb: 'bite' },
];

export const shapes: readonly { name: string; sides: number }[] = [
  { name: 'triangle', sides: 3 },
  { name: 'square', sides: 4 },
  { name: 'pentagon', sides: 5 },
  { name: 'hexagon', sides: 6 },
];

export const numbers: readonly string[] =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty'.split(
    ' ',
  );

/** Verbs as `base`, third person and past, each with a phrase that may follow. */
export const verbs: readonly { base: string; third: string; past: string; rest: string }[] = [
  { base: 'run', third: 'runs', past: 'ran', rest: 'to the gate' },
  { base: 'jump', third: 'jumps', past: 'jumped', rest: 'over the log' },
  { base: 'sleep', third: 'sleeps', past: 'slept', rest: 'under the tree' },
  { base: 'eat', third: 'eats', past: 'ate', rest: 'in the shade' },
  { base: 'walk', third: 'walks', past: 'walked', rest: 'along the path' },
  { base: 'play', third: 'plays', past: 'played', rest: 'in the sun' },
  { base: 'hide', third: 'hides', past: 'hid', rest: 'behind the wall' },
  { base: 'sit', third: 'sits', past: 'sat', rest: 'on the grass' },
  { base: 'wait', third: 'waits', past: 'waited', rest: 'by the door' },
  { base: 'drink', third: 'drinks', past: 'drank', rest: 'from the stream' },
  { base: 'rest', third: 'rests', past: 'rested', rest: 'near the fire' },
  { base: 'look', third: 'looks', past: 'looked', rest: 'at the moon' },
];

export const girls = [
  'Mia',
  'Anna',
  'Lucy',
  'Emma',
  'Nora',
  'Ella',
  'Rosa',
  'Zoe',
  'Ruby',
  'Clara',
  'Ivy',
  'Maya',
] as const;
export const boys = [
  'Tom',
  'Ben',
  'Max',
  'Leo',
  'Sam',
  'Jack',
  'Finn',
  'Noah',
  'Oscar',
  'Adam',
  'Hugo',
  'Theo',
] as const;

/** `a` or `an` before a word, by its first letter; no word of this world is an exception. */
export function withArticle(noun: string): string {
  return `${/^[aeiou]/i.test(noun) ? 'an' : 'a'} ${noun}`;
}

/** `a, b and c`. */
export function listed(items: readonly string[], joint = 'and'): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} ${joint} ${items.at(-1)}`;
}

/** The text with its first letter raised. */
export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** `one apple`, `two apples`. */
export function counted(count: number, singular: string, plural: string): string {
  return `${numbers[count]} ${count === 1 ? singular : plural}`;
}
