/** torch.randperm(n) right after torch.manual_seed(seed), on the CPU: Fisher and Yates with 32-bit numbers of mt19937. */
export function torchRandperm(n: number, seed: number): Int32Array {
  const random = mersenneTwister(seed);
  const order = Int32Array.from({ length: n }, (_, i) => i);
  for (let i = 0; i < n - 1; i++) {
    const j = i + (random() % (n - i));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** mt19937 (Matsumoto and Nishimura 1998): unsigned 32-bit numbers. */
function mersenneTwister(seed: number): () => number {
  const state = Uint32Array.of(seed, ...new Array<number>(623).fill(0));
  for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let next = 624;
  const refill = () => {
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  };
  return () => {
    if (next === 624) refill();
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}
