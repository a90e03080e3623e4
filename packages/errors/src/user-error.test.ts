import { expect, it } from 'vitest';
import { UserError } from './user-error.ts';

it('says one problem in a line, and several in a list', () => {
  expect(UserError.of('model.json', ['no name']).message).toBe('model.json: no name');
  expect(UserError.of('model.json', ['no name', 'no shape']).message).toBe(
    'model.json: 2 problems\n  - no name\n  - no shape',
  );
});

it('is told from other errors by its class and by its name', () => {
  const error = new UserError('this');
  expect(error).toBeInstanceOf(UserError);
  expect(error.name).toBe('UserError');
});
