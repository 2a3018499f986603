export * from './adamw.ts';
export * from './schedule.ts';
