export * from './backend.ts';
export * from './check.ts';
