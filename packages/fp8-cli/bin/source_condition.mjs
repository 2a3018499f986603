// A module hook: packages that export their TypeScript under the condition `source` resolve to it.
export const resolve = (specifier, context, next) =>
  next(specifier, { ...context, conditions: ['source', ...context.conditions] });
