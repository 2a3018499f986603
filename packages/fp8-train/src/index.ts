export * from './backend.ts';
export * from './files/index.ts';
export * from './generate.ts';
export * from './run_config.ts';
export * from './run_events.ts';
export * from './state.ts';
export * from './trainer.ts';
