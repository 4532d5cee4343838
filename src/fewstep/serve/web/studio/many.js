/** Many pictures, a few at a time; one that fails does not end the others. */

const AT_ONCE = 4;

/**
 * Call `make(item, i, signal)` for each item; `done(i, result, problem)` as each ends.
 * @template Item
 * @param {Item[]} items
 */
export async function many(items, make, done, signal) {
  let next = 0;
  const work = async () => {
    while (next < items.length && !signal.aborted) {
      const i = next;
      next += 1;
      try {
        done(i, await make(items[i], i, signal), null);
      } catch (problem) {
        if (signal.aborted) return;
        done(i, null, problem);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, work));
}
