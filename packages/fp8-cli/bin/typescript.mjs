import { register } from 'node:module';

let isOn = false;

/**
 * Lets this process import TypeScript. The first call counts.
 * @param conditions export conditions that packages are resolved with, before the usual ones
 */
export async function useTypeScript(conditions = []) {
  if (isOn) return;
  const tsx = await import('tsx/esm/api');
  tsx.register();
  register('./hooks.mjs', import.meta.url, { data: { conditions } });
  isOn = true;
}
