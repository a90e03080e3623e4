import { outputOf, pythonInterpreters } from './python.ts';

/** A TensorFlow that Python's package metadata knows of. */
export interface InstalledTensorFlow {
  package: string;
  version: string;
  /** The package's folder, where its shared objects lie. */
  folder: string;
}

// The working directory leaves the search path first: a stray json.py or tensorflow/ there must not be picked up.
const question = `
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import importlib.metadata, json
found = []
for name in sys.argv[1:]:
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    found.append({'package': name, 'version': package.version, 'folder': str(package.locate_file('tensorflow'))})
print(json.dumps(found))
`;

/**
 * Which of these packages are installed for Python, asked of its metadata; TensorFlow itself is never imported.
 * No Python, or one that cannot answer, counts as nothing installed.
 */
export async function installedTensorFlow(packages: readonly string[]): Promise<InstalledTensorFlow[]> {
  const found: InstalledTensorFlow[] = [];
  for (const python of pythonInterpreters()) {
    const answer = await outputOf(python, ['-c', question, ...packages]);
    if (answer === undefined) continue;
    try {
      found.push(...(JSON.parse(answer) as InstalledTensorFlow[]));
    } catch {
      continue; // a start-up script that prints is no reason to stop: the download is next
    }
  }
  return found;
}
