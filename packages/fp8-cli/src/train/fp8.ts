// What the training commands use of the other packages, loaded at once when one of them runs.
export { recipes, UserError } from 'fp8-core';
export { type GptConfig, presets } from 'fp8-models';
export * from 'fp8-train';
