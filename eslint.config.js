import nx from '@nx/eslint-plugin';
import prettier from 'eslint-config-prettier';
import tseslint from 'typescript-eslint';

/** Who may import whom; docs/architecture.md explains the order. Imports point down only. */
const packages = {
  errors: [],
  tensorflow: ['errors'],
  loaders: ['errors'],
  reporting: ['errors'],
  quantization: ['errors', 'tensorflow'],
  'model-zoo': ['errors', 'tensorflow', 'quantization'],
  optimizers: ['errors', 'tensorflow', 'quantization'],
  adapters: ['errors', 'tensorflow', 'quantization', 'model-zoo'],
  training: ['errors', 'tensorflow', 'model-zoo', 'optimizers', 'loaders'],
};
const allowed = { ...packages, experiments: Object.keys(packages), tools: Object.keys(packages) };

export default tseslint.config(
  { ignores: ['**/dist', '**/node_modules', '.nx', 'results', 'datasets'] },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    plugins: { '@nx': nx },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@nx/enforce-module-boundaries': [
        'error',
        {
          depConstraints: Object.entries(allowed).map(([scope, below]) => ({
            sourceTag: `scope:${scope}`,
            onlyDependOnLibsWithTags: [scope, ...below].map((name) => `scope:${name}`),
          })),
        },
      ],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
    },
  },
  prettier,
);
