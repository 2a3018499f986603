// Module hooks in front of tsx's: TypeScript is ESM here whatever package.json lies around it (tsx would take a run file in
// a folder without one for CommonJS), and a checkout run from source resolves packages by their `source` export.
let conditions = [];

export function initialize(data) {
  conditions = data.conditions;
}

export async function resolve(specifier, context, next) {
  const found = await next(specifier, { ...context, conditions: [...conditions, ...context.conditions] });
  return /\.m?ts(\?|$)/.test(found.url) ? { ...found, format: 'module' } : found;
}
