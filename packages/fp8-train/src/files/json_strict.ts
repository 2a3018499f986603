/** Rust's JSON reader stops at this depth; deeper text is no header. */
const MAX_DEPTH = 127;

/**
 * What a JSON text holds that JSON.parse lets pass but stricter readers refuse, or undefined: a key twice in one
 * object (JSON.parse keeps the last silently, others the first: a file could show two faces), a number that is not
 * written as a plain count, half a surrogate pair, or very deep nesting.
 * @param text valid JSON (JSON.parse has accepted it)
 */
export function strictProblem(text: string): string | undefined {
  /** One entry per open bracket: the keys so far of an object, null for an array. */
  const open: (Set<string> | null)[] = [];
  let expectsKey = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === '{' || char === '[') {
      expectsKey = char === '{';
      open.push(expectsKey ? new Set() : null);
      if (open.length > MAX_DEPTH) return `it is nested deeper than ${MAX_DEPTH}`;
    } else if (char === '}' || char === ']') {
      open.pop();
      expectsKey = false;
    } else if (char === ',') {
      expectsKey = open.at(-1) !== null;
    } else if (char === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
      const string: string = JSON.parse(text.slice(start, i + 1)); // escapes may spell one key in two ways
      if (/\p{Surrogate}/u.test(string)) return `the string at ${start} has half a surrogate pair`;
      if (!expectsKey) continue;
      const keys = open.at(-1)!;
      if (keys.has(string)) return `it has the key ${JSON.stringify(string.slice(0, 80))} twice`;
      keys.add(string);
      expectsKey = false;
    } else if (char === '-' || (char >= '0' && char <= '9')) {
      const start = i;
      while (/[-+.eE0-9]/.test(text[i + 1] ?? '')) i++;
      const number = text.slice(start, i + 1);
      if (!/^[0-9]+$/.test(number)) return `it has the number ${number.slice(0, 40)}, not a count`;
    }
  }
  return undefined;
}
