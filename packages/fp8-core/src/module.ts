import { Parameter } from './parameter.ts';

/** A part of a model: an object whose fields are parameters, modules, or arrays and records of them. */
export abstract class Module {
  /** All parameters in field order, each once: a tied weight appears where it is first met. */
  parameters(): Parameter[] {
    const found = new Set<Parameter>();
    const visit = (value: unknown): void => {
      if (value instanceof Parameter) found.add(value);
      else if (Array.isArray(value)) value.forEach(visit);
      else if (value instanceof Module) Object.values(value).forEach(visit);
    };
    visit(this);
    return [...found];
  }

  /** Frees all parameters. */
  release(): void {
    for (const p of this.parameters()) p.release();
  }
}
